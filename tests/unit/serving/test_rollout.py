"""What `serving.rollout` decides without a cluster; on one it is tested in tests/integration/test_rollout.py."""

import copy
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import Configuration

from assay.gate.ledger import Release
from assay.release.endpoint import Unreachable
from assay.release.targets import ReleaseError
from serving.cluster import lease, objects
from serving.cluster.api import Api, ApiError
from serving.cluster.objects import Reference, collection, differences, inventory, spelled, strangers
from serving.cluster.pods import IMAGE_PATIENCE_S, is_ready, restarts, trouble
from serving.cluster.proxied import Proxied
from serving.cluster.trial import Trial, selects
from serving.rollout import Cluster
from serving.targets import open_target

Answers = Callable[[str, str], tuple[int, Any]]


@pytest.fixture
def server() -> Iterator[Callable[[Answers], Api]]:
    """A function that gives an API server which answers (method, path) as it is told; status 0 hangs up."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answers: Answers) -> Api:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, found = answers(self.command, self.path)
                if status == 0:
                    self.close_connection = True
                    return
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return api_at(f"http://127.0.0.1:{servers[-1].server_port}")

    yield serve
    for one in servers:
        one.shutdown()
        one.server_close()


def api_at(url: str) -> Api:
    configuration = Configuration()
    configuration.host = url
    return Api(configuration)


def status(message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "message": message, "details": details}


PASSING: list[tuple[int, Any]] = [
    (0, None),
    (429, status("slow down")),
    (503, status("apiserver is shutting down")),
    (500, status("etcdserver: leader changed")),
    (409, status("the object has been modified; please apply your changes to the latest version and try again")),
]


@pytest.mark.parametrize("passing", PASSING)
def test_a_request_is_sent_again_after_a_passing_fault(
    server: Callable[[Answers], Api], passing: tuple[int, Any]
) -> None:
    answers = iter([passing, passing, (200, {"ok": True})])
    assert server(lambda *_: next(answers)).apply("/x", {}, "me") == {"ok": True}


LASTING = [
    (409, status("conflict", causes=[{"reason": "FieldManagerConflict", "field": ".spec"}]), "conflict"),
    (422, status("spec is invalid"), r"cannot patch /x: spec is invalid \(422\)"),
    (500, status("failed to create typed patch object: .spec.ports"), "typed patch"),
    (401, status("Unauthorized"), "does not know us"),
    (403, status('x is forbidden: User "some" cannot patch resource "things" in API group'), "some may not patch"),
    (403, status("x is forbidden: exceeded quota: few"), "exceeded quota: few"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "body", "words"), LASTING)
def test_what_is_refused_is_not_asked_twice(server: Callable[[Answers], Api], code: int, body: Any, words: str) -> None:
    asked: list[str] = []

    def answer(method: str, path: str) -> tuple[int, Any]:
        asked.append(f"{method} {path}")
        return code, body

    with pytest.raises(ApiError, match=words) as caught:
        server(answer).apply("/x", {}, "me", dry_run=True, force=True)
    assert asked == ["PATCH /x?fieldManager=me&dryRun=All&force=true"]
    assert caught.value.status == code
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(server: Callable[[Answers], Api]) -> None:
    with pytest.raises(ApiError, match=r"^cluster http://127.0.0.1:\d+ does not answer \(.*\); check KUBECONFIG"):
        server(lambda *_: (0, None)).get("/x", patience_s=0.5)
    with pytest.raises(ApiError, match="refused"):
        api_at("http://127.0.0.1:9").get("/x", patience_s=0.1)


def test_a_change_is_not_sent_again_once_it_is_not_ours_any_more(server: Callable[[Answers], Api]) -> None:
    asked: list[str] = []

    def answer(method: str, path: str) -> tuple[int, Any]:
        asked.append(method)
        return 503, status("apiserver is shutting down")

    def guard() -> None:
        if asked:
            raise ReleaseError("the lock was lost")

    api = server(answer)
    for change in (lambda: api.apply("/x", {}, "me", guard=guard), lambda: api.delete("/x", guard=guard)):
        asked.clear()
        with pytest.raises(ReleaseError, match="the lock was lost"):
            change()
        assert len(asked) == 1


PLUGIN = """#!{python}
import datetime, json, pathlib
with pathlib.Path({runs!r}).open("a") as runs:
    runs.write("run\\n")
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={life_s})
status = {{"token": "t", "expirationTimestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ")}}
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}}))
"""


@pytest.mark.parametrize(("life_s", "runs"), [(300, 1), (30, 5)])
def test_a_plugin_is_asked_again_when_its_token_is_about_to_end(
    server: Callable[[Answers], Api], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, life_s: int, runs: int
) -> None:
    """Five minutes are what GitHub's tokens live."""
    plugin, counted = tmp_path / "plugin", tmp_path / "runs"
    plugin.write_text(PLUGIN.format(python=sys.executable, runs=str(counted), life_s=life_s))
    plugin.chmod(0o755)
    execute = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server(lambda *_: (200, {})).server}}],
        "users": [{"name": "c", "user": {"exec": execute}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    api = Api.open()
    for _ in range(3):
        api.get("/x")
    assert len(counted.read_text().split()) == runs


def test_what_is_not_there_is_none(server: Callable[[Answers], Api]) -> None:
    api = server(lambda *_: (404, status("not found")))
    assert (api.find("/x"), api.delete("/x"), api.text("/x")) == (None, False, "")


FROM_THE_CLUSTER: list[tuple[int, Any, str]] = [
    (503, status("no endpoints available for service"), "no endpoints"),
    (502, b"error trying to reach service: dial tcp 10.0.0.1:3000: refused", "error trying to reach"),
    (500, b"", "answered 500 without a word"),
    (403, status('x is forbidden: User "someone" cannot get resource "pods/proxy"'), "someone may not get pods/proxy"),
    (0, None, "does not answer"),
]


@pytest.mark.parametrize(("code", "body", "words"), FROM_THE_CLUSTER)
def test_what_the_cluster_says_for_a_service_is_no_answer_of_it(
    server: Callable[[Answers], Api], code: int, body: Any, words: str
) -> None:
    with pytest.raises(Unreachable, match=words):
        Proxied.pod(server(lambda *_: (code, body)), "space", "one").send("GET", "/v1/model")


def test_what_a_service_says_is_passed_on(server: Callable[[Answers], Api]) -> None:
    seen: list[str] = []

    def answer(method: str, path: str) -> tuple[int, Any]:
        seen.append(f"{method} {path}")
        return 503, {"error": {"code": "busy"}}

    endpoint = Proxied.service(server(answer), "space", "assay-x")
    assert endpoint.send("POST", "/v1/predict?top_k=3", b"image").content() == {"error": {"code": "busy"}}
    assert seen == ["POST /api/v1/namespaces/space/services/assay-x:http/proxy/v1/predict?top_k=3"]


@pytest.mark.parametrize(
    ("api", "kind", "path"),
    [
        ("v1", "ConfigMap", "/api/v1/namespaces/n/configmaps"),
        ("v1", "Endpoints", "/api/v1/namespaces/n/endpoints"),
        ("apps/v1", "Deployment", "/apis/apps/v1/namespaces/n/deployments"),
        ("networking.k8s.io/v1", "Ingress", "/apis/networking.k8s.io/v1/namespaces/n/ingresses"),
        ("networking.k8s.io/v1", "NetworkPolicy", "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies"),
        ("policy/v1", "PodDisruptionBudget", "/apis/policy/v1/namespaces/n/poddisruptionbudgets"),
    ],
)
def test_each_kind_has_its_path(api: str, kind: str, path: str) -> None:
    assert collection(api, kind, "n") == path


def test_an_inventory_is_read_as_it_was_written() -> None:
    references = [Reference("v1", "ConfigMap", "a"), Reference("apps/v1", "Deployment", "b")]
    deployment = {"metadata": {"annotations": {objects.OBJECTS: spelled([*references, references[0]])}}}
    assert inventory(deployment) == sorted(references)
    for other in (None, {"metadata": {}}, {"metadata": {"annotations": {objects.OBJECTS: "[3, "}}}):
        assert inventory(other) == []


def test_a_difference_is_told_by_name_and_not_by_place() -> None:
    before = {"spec": {"containers": [{"name": "a", "image": "x"}], "replicas": 1}, "metadata": {"uid": "1"}}
    after = {
        "spec": {"containers": [{"name": "new", "env": {"A": "1"}}, {"name": "a", "image": "y"}], "replicas": 1},
        "metadata": {"uid": "2", "labels": {"l": "v"}},
    }
    assert differences(before, after) == [
        "spec.containers[a].image  x → y",
        "spec.containers[new].name  (none) → new",
        "spec.containers[new].env.A  (none) → 1",
        "metadata.labels.l  (none) → v",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert differences({"spec": value}, {"spec": copy.deepcopy(value)}) == []


@given(st.dictionaries(st.text(), st.integers()), st.dictionaries(st.text(), st.integers()))
def test_whatever_differs_is_told(old: dict[str, int], new: dict[str, int]) -> None:
    names = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    assert len(differences({"data": old}, {"data": new})) == len(names)


def test_strangers_are_those_who_changed_what_runs() -> None:
    def entry(manager: str, *path: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name in reversed(path):
            fields = {f"f:{name}": fields}
        return {"manager": manager, "fieldsV1": fields}

    entries = [
        entry("assay", "spec", "template"),
        entry("kube-controller-manager", "status", "replicas"),
        entry("kube-controller-manager", "spec", "replicas"),
        entry("kubectl-rollout", "spec", "template", "metadata", "annotations", "restartedAt"),
        entry("kubectl-edit", "spec", "template", "spec", "containers"),
    ]
    deployment = {"metadata": {"managedFields": entries}}
    assert strangers(deployment) == ["kubectl-edit has changed spec.template.spec.containers by hand"]
    assert objects.owns(deployment, "spec", "template")
    assert not objects.owns(deployment, "spec", "replicas")


def pod(container: dict[str, Any], policy: str = "Always", **given: Any) -> dict[str, Any]:
    limits = {"resources": {"limits": {"memory": "512Mi"}}}
    return {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"restartPolicy": policy, "containers": [{"name": "assay", **limits}]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"name": "assay", "image": "i@sha256:0", **container}],
            **given,
        },
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


LATE = IMAGE_PATIENCE_S + 1
TROUBLES: list[tuple[dict[str, Any], float, str, str, bool]] = [
    (pod(waiting("ErrImagePull", "dial tcp: refused")), 0, "", "ErrImagePull: i@sha256:0: dial tcp: refused", False),
    (pod(waiting("ImagePullBackOff", "dial tcp: refused")), LATE, "", "ImagePullBackOff: i@sha256:0: dial", True),
    (pod(waiting("ErrImagePull", "manifest unknown")), 0, "", "manifest unknown", True),
    (pod(waiting("InvalidImageName", "no")), 0, "", "InvalidImageName: no", True),
    (pod(waiting("CreateContainerConfigError", "configmap not found")), 0, "", "configmap not found", False),
    (pod(waiting("CreateContainerConfigError", "configmap not found")), 6, "", "configmap not found", True),
    (pod({**waiting("CrashLoopBackOff"), "lastState": ended(1)}), 0, "", "CrashLoopBackOff: it ended with code", True),
    (pod({"state": {"running": {}}, "lastState": ended(1)}), 0, "", "it ended with code 1", False),
    (pod({"state": {"running": {}}, "lastState": ended(2)}), 0, "bundle is torn", "code 2: bundle is torn", True),
    (pod({"state": ended(137, "OOMKilled")}, "Never"), 0, "", "OOMKilled: .* limit of 512Mi", True),
    (pod({"state": ended(137, "OOMKilled")}), 0, "", "OOMKilled", False),
    (pod({}, phase="Failed", reason="Evicted", message="node was low"), 0, "", "Evicted: node was low", True),
    (
        pod({}, conditions=[{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient memory"}]),
        0, "", "no node takes it: .*Insufficient memory", False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "lasting", "words", "text", "final"), TROUBLES)
def test_why_a_pod_is_not_ready(found: dict[str, Any], lasting: float, words: str, text: str, final: bool) -> None:
    told = trouble(found, lasting, lambda *_: words)
    assert told
    assert re.search(text, told.text), told
    assert told.final is final


def test_a_pod_without_trouble() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    found = pod({"state": {"running": {}}, "ready": True, "restartCount": 2, "lastState": ended(1)}, conditions=ready)
    assert trouble(found, 99, lambda *_: "") is None
    assert trouble(pod(waiting("ContainerCreating")), 99, lambda *_: "") is None
    assert (is_ready(found), restarts(found), is_ready(pod({}))) == (True, 2, False)
    found["metadata"]["deletionTimestamp"] = "now"
    assert not is_ready(found)


LABELS = {"app.kubernetes.io/name": "assay", "app.kubernetes.io/instance": "x"}


def documents() -> list[dict[str, Any]]:
    container = {
        "name": "assay", "image": "i", "envFrom": [{"configMapRef": {"name": "settings-1"}}],
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings-1", "key": "A"}}}],
    }  # fmt: skip
    volumes = [{"name": "settings-1", "configMap": {"name": "foreign"}}]
    spec = {"containers": [container], "volumes": volumes, "topologySpreadConstraints": [{"maxSkew": 1}]}
    template = {"metadata": {"labels": LABELS}, "spec": spec}
    return [
        document("v1", "ConfigMap", "settings-1", data={"A": "1"}),
        document("v1", "ServiceAccount", "assay-x"),
        document("v1", "Service", "assay-x", spec={"selector": LABELS}),
        document("apps/v1", "Deployment", "assay-x", spec={"selector": {"matchLabels": LABELS}, "template": template}),
    ]


def document(api: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "assay-staging"}, **content}


def test_a_trial_shares_nothing_with_what_serves() -> None:
    given = documents()
    before = copy.deepcopy(given)
    trial = Trial.of(given, "x", "0123456789ab")
    assert given == before
    assert not selects(LABELS, trial.pod)
    (settings,) = trial.settings_of({"metadata": {"uid": "7"}})
    name = settings["metadata"]["name"]
    assert name.startswith(trial.name)
    assert [owner["uid"] for owner in settings["metadata"]["ownerReferences"]] == ["7"]
    spec = trial.pod["spec"]
    (container,) = spec["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": name}}]
    assert container["env"][0]["valueFrom"]["configMapKeyRef"] == {"name": name, "key": "A"}
    assert spec["volumes"] == [{"name": "settings-1", "configMap": {"name": "foreign"}}]
    assert "topologySpreadConstraints" not in spec
    assert spec["activeDeadlineSeconds"] > 0
    assert Trial.of(given, "x", "0123456789ab").name != trial.name


def test_a_trial_that_would_get_requests_is_refused() -> None:
    given = documents()
    given[2]["spec"]["selector"] = {"app.kubernetes.io/instance": "x"}
    with pytest.raises(ReleaseError, match="would get requests"):
        Trial.of(given, "x", "0123456789ab")


def test_a_trial_is_observed_by_nobody() -> None:
    given = documents()
    (container,) = given[3]["spec"]["template"]["spec"]["containers"]
    container["envFrom"] += [{"secretRef": {"name": name}} for name in ("assay-observation", "another")]
    container["env"].append({"name": "ASSAY_SERVE_OBSERVE_TO", "value": "s3://pictures"})
    (found,) = Trial.of(given, "x", "0123456789ab").pod["spec"]["containers"]
    assert [one["secretRef"] for one in found["envFrom"] if "secretRef" in one] == [{"name": "another"}]
    assert [one["value"] for one in found["env"] if one["name"] == "ASSAY_SERVE_OBSERVE_TO"] == [""]


def release(given: list[dict[str, Any]], **changes: Any) -> Release:
    content = {
        "model": "x", "environment": "staging", "target": "kubernetes", "version": "1", "bundle_digest": "a" * 64,
        "golden_digest": "b" * 64, "image": f"i@sha256:{'c' * 64}", "manifests": yaml.safe_dump_all(given),
    }  # fmt: skip
    return Release(**{**content, **changes})


def of_another_namespace() -> list[dict[str, Any]]:
    given = documents()
    given[0]["metadata"]["namespace"] = "elsewhere"
    return given


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (release(documents(), environment="production"), "is for production, not a release of x for staging"),
        (release(documents(), model="y"), "not a release of x for staging"),
        (release(of_another_namespace()), "elsewhere.*promote it again"),
        (release(documents()[:3]), "one Deployment and one Service, both assay-x"),
        (release([*documents(), document("argoproj.io/v1alpha1", "Rollout", "r")]), "leave the component `canary` out"),
    ],
)  # fmt: skip
def test_a_release_of_somewhere_else_is_not_deployed(
    server: Callable[[Answers], Api], wrong: Release, words: str
) -> None:
    cluster = Cluster(server(lambda *_: (404, status("nothing is asked for"))), "x", "staging", "assay-staging")
    with pytest.raises(ReleaseError, match=words):
        cluster.difference(wrong)


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (403, 'x is forbidden: User "reader" cannot patch resource "services" in API group', []),
        (422, "spec.ports: no such port", ["ServiceAccount assay-x cannot be compared with the release: "]),
    ],
    ids=["may not", "cannot"],
)
def test_what_the_cluster_does_not_let_compare(
    server: Callable[[Answers], Api], code: int, said: str, told: list[str]
) -> None:
    def answer(method: str, path: str) -> tuple[int, Any]:
        return (code, status(said)) if method == "PATCH" else (200, of_ours())

    given = [one for one in documents() if one["kind"] != "ConfigMap"]
    cluster = Cluster(server(answer), "x", "staging", "assay-staging")
    lines = cluster.drift(release(given))
    assert [line[: len(start)] for line, start in zip(lines, told, strict=True)] == told


@pytest.mark.parametrize("seen", [1, 2])
def test_what_a_controller_does_meanwhile_is_no_drift(server: Callable[[Answers], Api], seen: int) -> None:
    """A difference counts that is there at a second look too."""
    found = {one["kind"]: one for one in copy.deepcopy(documents())}
    looks = 0

    def answer(method: str, path: str) -> tuple[int, Any]:
        nonlocal looks
        kind = {"configmaps": "ConfigMap", "serviceaccounts": "ServiceAccount", "services": "Service"}
        one = found[kind.get(path.split("?", maxsplit=1)[0].split("/")[-2], "Deployment")]
        if one["kind"] != "Service" or method == "GET":
            return 200, one
        looks += 1
        return 200, one | {"spec": one["spec"] | {"type": "ClusterIP"}} if looks <= seen else one

    cluster = Cluster(server(answer), "x", "staging", "assay-staging")
    drift = cluster.drift(release(documents()))
    assert drift == ["Service assay-x differs from the release: spec.type"] * (seen - 1)


def of_ours() -> dict[str, Any]:
    found = documents()[3]
    found["metadata"] |= {
        "uid": "1",
        "labels": {objects.INSTANCE: "x"},
        "managedFields": [{"manager": objects.MANAGER}],
    }
    return found


READY = [{"type": "Ready", "status": "True"}]


def test_only_pods_that_get_requests_are_asked(server: Callable[[Answers], Api]) -> None:
    """An autoscaler may have started another one a moment ago."""
    starting = pod({}) | {"metadata": {"name": "starting", "uid": "1"}}
    serving = pod({}, conditions=READY) | {"metadata": {"name": "serving", "uid": "2"}}
    cluster = Cluster(server(lambda *_: (200, {"items": [starting, serving]})), "x", "staging", "assay-staging")
    assert [one.name for one in cluster.endpoints(release(documents()))] == ["service assay-x", "pod serving"]


def test_a_trial_that_outlived_its_time_says_so(server: Callable[[Answers], Api]) -> None:
    found = [pod({}, conditions=READY)]

    def answer(method: str, path: str) -> tuple[int, Any]:
        if method == "GET" and path.endswith("/pods?labelSelector=assay%2Ftrial%3Dx"):
            return 200, {"items": []}
        return 200, found[0]

    cluster = Cluster(server(answer), "x", "staging", "assay-staging")

    def rehearsed(then: dict[str, Any]) -> None:
        with cluster.trial(release(documents())):
            found[0] = then
            raise Unreachable("the pod is away")

    with pytest.raises(Unreachable, match="away"):
        rehearsed(found[0])
    with pytest.raises(ReleaseError, match=r"was ended after 900 s.*fewer images"):
        rehearsed(pod({}, phase="Failed", reason="DeadlineExceeded"))


def test_a_change_is_not_sent_again_once_the_lock_was_lost(
    server: Callable[[Answers], Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival takes it between two attempts."""
    monkeypatch.setattr(lease, "MARGIN_S", lease.DURATION_S)
    asked: list[str] = []

    def answer(method: str, path: str) -> tuple[int, Any]:
        asked.append(method)
        if "/leases" not in path:
            return (503, status("shutting down")) if method == "DELETE" else (200, of_ours())
        if method == "GET":
            rival = {"metadata": {}, "spec": {"holderIdentity": "elsewhere/7/x"}}
            return (200, rival) if "DELETE" in asked else (404, status("not found"))
        if "DELETE" in asked:
            return 409, status("it was changed")
        return 200, {"metadata": {}, "spec": {}}

    cluster = Cluster(server(answer), "x", "staging", "assay-staging")
    with pytest.raises(ReleaseError, match="the lock was lost to process 7 on elsewhere"), cluster.exclusive():
        cluster.remove()
    assert asked.count("DELETE") == 1


@pytest.mark.parametrize("text", ["soon", "0", "nan", "-3", "1e9"])
def test_a_time_limit_that_is_none_is_told(
    server: Callable[[Answers], Api], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("ASSAY_ROLLOUT_TIMEOUT_S", text)
    cluster = Cluster(server(lambda *_: (200, of_ours())), "x", "staging", "assay-staging")
    with pytest.raises(ReleaseError, match=rf"\$ASSAY_ROLLOUT_TIMEOUT_S: must be seconds.*'{text}'"):
        cluster.remove()


@pytest.mark.parametrize("changes", [{"labels": {}}, {"managedFields": [{"manager": "helm"}]}])
def test_what_is_somebody_elses_is_not_removed(server: Callable[[Answers], Api], changes: dict[str, Any]) -> None:
    asked: list[str] = []
    found = of_ours()
    found["metadata"] |= changes

    def answer(method: str, path: str) -> tuple[int, Any]:
        asked.append(method)
        return 200, found

    with pytest.raises(ReleaseError, match="is somebody else's"):
        Cluster(server(answer), "x", "staging", "assay-staging").remove()
    assert asked == ["GET"]


def test_without_a_configuration_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ReleaseError, match=r"^no cluster: .*; set KUBECONFIG"):
        Cluster.open("x", "staging")


KUBECONFIG: dict[str, Any] = {
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("garbage", "is no kubeconfig"),
        ("a: [", "is no kubeconfig"),
        ("a: b", "Invalid kube-config file"),
        ("not-there", "No such file or directory: 'not-there'"),
        ("false", "exec: process returned 1"),
    ],
)
def test_a_kubeconfig_that_does_not_work_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, told: str
) -> None:
    """A single word is taken for the command of a plugin."""
    if text in {"not-there", "false"}:
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": text, "interactiveMode": "Never"}
        text = json.dumps(KUBECONFIG | {"users": [{"name": "c", "user": {"exec": plugin}}]})
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ReleaseError, match=r"^no cluster: [^\n]*; set KUBECONFIG") as refused:
        Cluster.open("x", "staging")
    assert told in str(refused.value)


def test_without_the_client_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("serving.rollout")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("serving.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ReleaseError, match="needs the Python package `kubernetes`"):
        open_target("kubernetes", "x", "staging")
