"""Releases on a real cluster, as the promoter's own account: rolled out, refused, found wanting, and put back."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from assay.gate.ledger import Release
from assay.release.endpoint import Endpoint
from assay.release.golden import problem_of
from assay.release.targets import Busy, ReleaseError
from serving import manifests
from serving.cluster.api import Api, ApiError
from serving.cluster.objects import Reference
from serving.rollout import Cluster
from serving.targets import open_target

from cluster import MODEL, Candidate, Images, Kube, Load, Place, PlaceMaker, new_place, use
from wire import Wire

pytestmark = pytest.mark.cluster

PATIENCE_S = 60
Found = TypeVar("Found")
DEPLOYMENT = f"assay-{MODEL}"
COLLECTED = "deployments,pods,services,configmaps,networkpolicies,serviceaccounts,leases"


def cluster_of(place: Place) -> Cluster:
    found = open_target("kubernetes", MODEL, place.environment)
    assert isinstance(found, Cluster)
    return found


def release_of(cluster: Cluster, candidate: Candidate) -> Release:
    return cluster.draft(candidate.version, candidate.bundle, candidate.golden, candidate.image)


def deployed_by(cluster: Cluster, candidate: Candidate) -> None:
    cluster.deploy(release_of(cluster, candidate), candidate.golden)


def deployed(place: Place, images: Images, name: str) -> Cluster:
    cluster = cluster_of(place)
    deployed_by(cluster, images[name])
    return cluster


def settings_of(place: Place) -> list[str]:
    """The ConfigMaps of the service, by name."""
    names = [one["metadata"]["name"] for one in place.get("configmaps")["items"]]
    return [name for name in names if name.startswith("assay-") and "-golden-" not in name]


def waited(look: Callable[[], Found | None], enough: Callable[[Found], bool]) -> Found:
    """What is seen once it is enough."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if found is not None and enough(found):
            return found
        time.sleep(0.3)
    pytest.fail(f"not seen in {PATIENCE_S} s")


def first_problem(endpoint: Endpoint, candidate: Candidate) -> str:
    """The first wrong answer to a golden image."""

    def look() -> str | None:
        found = (problem_of(endpoint, example, candidate.bundle.digest) for example in candidate.golden.examples)
        return next((problem for problem in found if problem), None)

    return waited(look, bool)


@pytest.fixture(scope="module")
def served(kube: Kube, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where `good` is served: tests leave it so."""
    with new_place(kube, tmp_path_factory) as found:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ASSAY_HOME", str(tmp_path_factory.mktemp("home")))
            deployed(use(found, patch), images, "good")
        yield found


def golden(number: int) -> dict[str, Any]:
    """Of an earlier release."""
    labels = {"assay/golden": MODEL, "app.kubernetes.io/instance": MODEL}
    metadata = {"name": f"{DEPLOYMENT}-golden-{number}", "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def test_a_first_release_is_tried_and_rolled_out(
    place: Place, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, good = cluster_of(place), images["good"]
    release = release_of(cluster, good)
    place(
        "apply",
        "--server-side",
        "--field-manager=assay",
        "--filename=-",
        given=yaml.safe_dump_all(map(golden, range(12))),
    )
    assert cluster.state() is None
    assert f"Deployment {DEPLOYMENT}  is made" in cluster.difference(release)
    with cluster.exclusive(), cluster.trial(release) as endpoint:
        assert [problem_of(endpoint, one, good.bundle.digest) for one in good.golden.examples] == [None] * 3
        assert cluster.state() is None
        policy = place.get("networkpolicy", DEPLOYMENT)["spec"]["podSelector"]["matchLabels"]
        (trial,) = place.get("pods")["items"]
        assert policy.items() <= trial["metadata"]["labels"].items()
    with cluster.exclusive():
        cluster.deploy(release, good.golden)
    state = cluster.state()
    assert state is not None
    assert (state.label, state.version, state.bundle_digest) == (release.label, good.version, good.bundle.digest)
    assert (state.wanted, state.ready, state.restarts, state.problems, state.healthy) == (1, 1, 0, (), True)
    assert "1 of 1 new pods ready, 0 old" in capsys.readouterr().err
    assert cluster.golden(release) == good.golden
    assert len(place.get("configmaps", f"--selector=assay/golden={MODEL}")["items"]) == 10
    endpoints = cluster.endpoints(release)
    assert [endpoint.name.split()[0] for endpoint in endpoints] == ["service", "pod"]
    for endpoint in endpoints:
        assert [problem_of(endpoint, one, good.bundle.digest) for one in good.golden.examples] == [None] * 3
    before = place.get("deployment", DEPLOYMENT)["metadata"]
    cluster.deploy(release, good.golden)
    assert place.get("deployment", DEPLOYMENT)["metadata"]["resourceVersion"] == before["resourceVersion"]
    assert cluster.difference(release) == []


AUTOSCALER = {
    "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "assay"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "assay"},
        "minReplicas": 2, "maxReplicas": 3, "targetCPUUtilizationPercentage": 90,
    },
}  # fmt: skip


def test_an_update_under_load_loses_no_request(
    make_place: PlaceMaker, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes the settings too, and lets an autoscaler set the number of pods, which must not fall meanwhile."""
    place = use(make_place("production"), monkeypatch)
    place.overlay(replicas=2)
    cluster = deployed(place, images, "good")
    old = settings_of(place)
    place.overlay(replicas=1, settings=("ASSAY_SERVE_QUEUE=65",), others=(AUTOSCALER,))
    with Load.on(place.address, images["good"].golden.examples[0].image) as load:
        time.sleep(1)
        deployed_by(cluster, images["better"])
        time.sleep(1)
    assert (load.failures, load.digests) == ([], {images["good"].bundle.digest, images["better"].bundle.digest})
    assert load.sent > 2000
    assert place.get("deployment", DEPLOYMENT)["spec"]["replicas"] == 2
    assert cluster.drift(release_of(cluster, images["better"])) == []
    assert len(cluster.endpoints(release_of(cluster, images["better"]))) == 3
    assert len(old) == len(settings_of(place)) == 1
    assert old != settings_of(place)
    place.overlay(replicas=2)
    assert f"HorizontalPodAutoscaler {DEPLOYMENT}  is deleted" in cluster.difference(
        release_of(cluster, images["good"])
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("greedy", "OOMKilled: it needs more memory than its limit of 512Mi"),
        ("missing", r"ErrImagePull|ImagePullBackOff: .*-missing@sha256:0{64}"),
    ],
)
def test_a_trial_says_at_once_why_a_release_cannot_start(
    served: Place, images: Images, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of(use(served, monkeypatch))
    with (
        pytest.raises(ReleaseError, match=f"^a trial pod does not start: ({why})"),
        cluster.trial(release_of(cluster, images[name])),
    ):
        pytest.fail("it started")
    pods = served.get("pods")["items"]
    assert not [
        one for one in pods if "trial" in one["metadata"]["name"] and "deletionTimestamp" not in one["metadata"]
    ]


def test_a_release_that_is_never_ready_is_given_up(
    served: Place, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of(use(served, monkeypatch))
    monkeypatch.setenv("ASSAY_ROLLOUT_TIMEOUT_S", "25")
    release = release_of(cluster, images["sleepy"])
    why = r"a trial pod is not ready after 25 s: .*probe failed.* refused"
    with pytest.raises(ReleaseError, match=why), cluster.trial(release):
        pytest.fail("it is ready")


def test_a_release_that_answers_wrongly_is_seen_in_its_trial(
    served: Place, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, wrong = cluster_of(use(served, monkeypatch)), images["wrong"]
    with cluster.trial(release_of(cluster, wrong)) as endpoint:
        problem = first_problem(endpoint, wrong)
    assert "away from the expected one" in problem


def test_a_failed_release_leaves_the_old_one_serving_and_is_put_back(
    served: Place, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, good = cluster_of(use(served, monkeypatch)), images["good"]
    with Load.on(served.address, good.golden.examples[0].image, clients=1) as load:
        with pytest.raises(ReleaseError, match=r"CrashLoopBackOff|ended with code 2: .*expected"):
            deployed(served, images, "mismatched")
        state = cluster.state()
        assert state is not None
        assert not state.healthy
        assert any("expected" in problem for problem in state.problems), state
        release = release_of(cluster, good)
        cluster.deploy(release, cluster.golden(release))
    state = cluster.state()
    assert state is not None
    assert state.healthy
    assert (load.failures, load.digests) == ([], {good.bundle.digest})


def test_an_instance_that_ends_is_seen_and_what_was_removed_leaves_nothing_behind(place: Place, images: Images) -> None:
    place("create", "configmap", "somebody-elses")
    cluster = deployed(place, images, "mortal")
    state = waited(cluster.state, lambda found: found.restarts > 0)
    assert state.problems == () or "ended with code 3" in state.problems[0]
    cluster.remove()
    assert cluster.state() is None
    left = {f"{one['kind']} {one['metadata']['name']}" for one in place.get(COLLECTED)["items"]}
    assert {one for one in left if not one.startswith(("Pod ", "ConfigMap kube-root"))} == {
        "ServiceAccount assay-promoter",
        "ServiceAccount default",
        "ConfigMap somebody-elses",
        f"ConfigMap {DEPLOYMENT}-golden-{images['mortal'].golden.digest[:12]}",
    }
    cluster.remove()


def test_what_somebody_else_set_is_shown_and_left(
    served: Place, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of(use(served, monkeypatch))
    before = served.get("deployment", DEPLOYMENT)
    patch: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT},
        "spec": {"minReadySeconds": 2},
    }
    force = (
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=platform",
        "--filename=-",
        "--validate=false",
    )
    served(*force, given=yaml.safe_dump(patch))
    state = cluster.state()
    assert state is not None
    assert state.problems == ("platform has changed spec.minReadySeconds by hand",)
    better = release_of(cluster, images["better"])
    owned = f"Deployment {DEPLOYMENT}: spec.minReadySeconds belongs to platform"
    assert f"conflict: {owned}" in cluster.difference(better)
    with pytest.raises(ReleaseError, match=f"^nothing was changed in {served.namespace}: {re.escape(owned)};"):
        cluster.deploy(better, images["better"].golden)
    now = served.get("deployment", DEPLOYMENT)
    assert now["spec"] == {**before["spec"], "minReadySeconds": 2}
    assert now["metadata"]["labels"] == before["metadata"]["labels"]
    del patch["spec"]
    served(*force, given=yaml.safe_dump(patch))
    cluster.deploy(release_of(cluster, images["good"]), images["good"].golden)
    assert served.get("deployment", DEPLOYMENT)["spec"] == before["spec"]


def test_a_difference_names_what_would_change(served: Place, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(use(served, monkeypatch))
    good, better = images["good"], images["better"]
    assert cluster.difference(release_of(cluster, good)) == []
    found = cluster.difference(release_of(cluster, better))
    name = f"Deployment {DEPLOYMENT}: spec.template.spec.containers[assay]"
    assert any(line.startswith(f"{name}.image  {good.image[:60]}") for line in found), found
    assert f"{name}.env[ASSAY_SERVE_VERSION].value  {good.version} → {better.version}" in found
    assert {line.split(":")[0] for line in found} == {f"Deployment {DEPLOYMENT}"}
    served("scale", "deployment", DEPLOYMENT, "--replicas=2")
    try:
        (line,) = cluster.difference(release_of(cluster, good))
        assert line == f"Deployment {DEPLOYMENT}: spec.replicas  2 → 1"
    finally:
        served("scale", "deployment", DEPLOYMENT, "--replicas=1")


def test_what_was_changed_by_hand_is_told_object_by_object(
    make_place: PlaceMaker, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = use(make_place("production"), monkeypatch)
    place.overlay(others=(AUTOSCALER,))
    cluster, release = deployed(place, images, "good"), release_of(cluster_of(place), images["good"])
    assert [cluster.drift(release) for _ in range(3)] == [[]] * 3
    place("patch", "service", DEPLOYMENT, "--type=merge", '--patch={"spec": {"selector": {"by": "hand"}}}')
    policy = [{"op": "add", "path": "/spec/egress/-", "value": {}}]
    place("patch", "networkpolicy", DEPLOYMENT, "--type=json", f"--patch={json.dumps(policy)}")
    place("delete", "horizontalpodautoscaler", DEPLOYMENT)
    # Newer clusters name what was added.
    assert sorted(line.removesuffix(".by") for line in cluster.drift(release)) == [
        f"HorizontalPodAutoscaler {DEPLOYMENT} is missing",
        f"NetworkPolicy {DEPLOYMENT} differs from the release: spec.egress[1]",
        f"Service {DEPLOYMENT} differs from the release: spec.selector",
    ]
    place("delete", "service,networkpolicy", DEPLOYMENT)
    cluster.deploy(release, images["good"].golden)
    assert cluster.drift(release) == []


def test_who_comes_second_is_told_who_is_at_work(served: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = cluster_of(use(served, monkeypatch)), cluster_of(served)
    busy = pytest.raises(Busy, match=rf"process {os.getpid()} on .*, since 20.* UTC")
    with first.exclusive(), busy, second.exclusive():
        pytest.fail("both have it")
    with second.exclusive():
        pass


HOLD = """
import sys, time
from serving.cluster import lease
from serving.rollout import Cluster
lease.DURATION_S, lease.RENEW_S = 4, 1.0
with Cluster.open(sys.argv[1], sys.argv[2]).exclusive():
    print("held", flush=True)
    time.sleep(300)
"""


def test_the_lock_of_a_killed_promoter_is_taken_over(
    served: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(served, monkeypatch)
    command = [sys.executable, "-c", HOLD, MODEL, served.environment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(manifests.__file__).parents[1]) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
    with cluster_of(served).exclusive():
        assert f"held by process {holder.pid} on" in capsys.readouterr().err


def test_a_promoter_whose_lock_was_taken_goes_no_further(
    served: Place, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of(use(served, monkeypatch))
    before = served.get("deployment", DEPLOYMENT)["metadata"]["resourceVersion"]
    with cluster.exclusive():
        rival = {"spec": {"holderIdentity": "elsewhere/7/x"}}
        served("patch", "lease", DEPLOYMENT, "--type=merge", f"--patch={json.dumps(rival)}")
        time.sleep(8)  # until it would have been renewed
        with pytest.raises(ReleaseError, match="the lock was lost to process 7 on elsewhere"):
            deployed_by(cluster, images["better"])
    assert served.get("deployment", DEPLOYMENT)["metadata"]["resourceVersion"] == before
    served("delete", "lease", DEPLOYMENT)


@pytest.fixture
def wired(served: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    use(served, monkeypatch)
    wire = Wire(Cluster.open(MODEL, served.environment).api.server)
    monkeypatch.setenv("KUBECONFIG", str(served.through(wire.url)))
    yield wire
    wire.close()


def test_a_rollout_outlasts_a_cluster_that_comes_back_and_no_other(
    served: Place, images: Images, wired: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_of(served)
    with cluster.exclusive():
        monkeypatch.setenv("ASSAY_ROLLOUT_TIMEOUT_S", "6")
        threading.Timer(2.5, wired.cut).start()
        with pytest.raises(ReleaseError, match=f"^cluster {wired.url} does not answer"):
            deployed_by(cluster, images["better"])
        monkeypatch.setenv("ASSAY_ROLLOUT_TIMEOUT_S", "60")
        threading.Timer(3.0, wired.mend).start()
        deployed_by(cluster, images["better"])
    with cluster.exclusive():
        deployed_by(cluster, images["good"])
    state = cluster.state()
    assert state is not None
    assert state.healthy


def test_what_the_account_may_not_do_is_named(served: Place, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(use(served, monkeypatch))
    role = served.get("role", "assay-promoter")
    rules = [rule for rule in role["rules"] if "networkpolicies" not in rule["resources"]]
    served("patch", "role", "assay-promoter", "--type=merge", f"--patch={json.dumps({'rules': rules})}")
    try:
        with pytest.raises(
            ApiError, match=r"assay-promoter may not patch networkpolicies .*; grant it, serving/k8s/access"
        ):
            waited(lambda: deployed_by(cluster, images["good"]), lambda _: False)
    finally:
        served("patch", "role", "assay-promoter", "--type=merge", f"--patch={json.dumps({'rules': role['rules']})}")


def test_a_wrong_address_and_a_wrong_account_are_told(
    served: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(served, monkeypatch)
    monkeypatch.setenv("KUBECONFIG", str(served.through("https://127.0.0.1:9")))
    with pytest.raises(ReleaseError, match=r"cluster https://127.0.0.1:9 does not answer \(connection refused\)"):
        cluster_of(served)
    (tmp_path / "config").write_text(re.sub("token: .*", "token: wrong", served.config.read_text()))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ReleaseError, match="does not know us"):
        cluster_of(served)
    monkeypatch.setenv("ASSAY_KUBE_CONTEXT", "nowhere")
    with pytest.raises(ReleaseError, match=r"no cluster: .*nowhere"):
        cluster_of(served)


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_cluster_takes_the_shipped_manifests(
    kube: Kube, served: Place, images: Images, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kube.config)
    monkeypatch.delenv("ASSAY_OVERLAYS", raising=False)
    api, good = Api.open(), images["good"]
    known = set(kube("api-versions").split())
    documents = manifests.parsed(manifests.render(environment, "surface_crack", "7", good.bundle.digest, good.image))
    seen = [document for document in documents if document["apiVersion"] in known]
    assert {"Deployment", "Service", "NetworkPolicy"} <= {document["kind"] for document in seen}
    for document in seen:
        document["metadata"]["namespace"] = served.namespace
        api.apply(Reference.of(document).path(served.namespace), document, "assay", dry_run=True)
