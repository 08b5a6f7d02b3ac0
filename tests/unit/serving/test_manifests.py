"""The manifests of a release: what every cluster must be told, and nothing that somebody may have slipped in."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from assay.gate.ledger.releases import MAX_MANIFESTS
from serving import manifests
from serving.cluster.trial import Trial
from serving.manifests import ManifestError, deployment_of, namespace_of, parsed, render, service_of
from serving.settings import PREFIX, Settings

ROOT = Path(manifests.__file__).parents[1]
TEST_OVERLAYS = ROOT / "tests" / "overlays"
DOCKERFILE = (ROOT / "serving" / "Dockerfile").read_text()

DIGEST, SHA = "ab" * 32, "sha256:" + "cd" * 32
IMAGE = f"registry.example:5000/team/assay@{SHA}"
RELEASE = ("7", DIGEST, IMAGE)

ENVIRONMENTS = ["staging", "production", "everything"]
MODELS = ["demo", "surface_crack"]
OURS = ["ServiceMonitor", "PrometheusRule", "Rollout", "AnalysisTemplate"]
"""Kinds that Kubernetes itself does not have."""

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

Document = dict[str, Any]


@cache
def rendered(environment: str, model: str = "surface_crack") -> str:
    with pytest.MonkeyPatch.context() as patch:
        if environment == "everything":
            patch.setenv("ASSAY_OVERLAYS", str(TEST_OVERLAYS))
        return render(environment, model, *RELEASE)


def documents(environment: str, model: str = "surface_crack") -> list[Document]:
    return parsed(rendered(environment, model))


def only(environment: str, kind: str, name: str = "assay-surface-crack") -> Document:
    (found,) = [d for d in documents(environment) if d["kind"] == kind and d["metadata"]["name"].startswith(name)]
    return found


@pytest.fixture(params=ENVIRONMENTS)
def deployment(request: pytest.FixtureRequest) -> Document:
    return deployment_of(rendered(request.param))


@pytest.fixture
def pod(deployment: Document) -> Document:
    spec: Document = deployment["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Document) -> Document:
    (found,) = pod["containers"]
    return found


def environment_of(name: str) -> dict[str, str]:
    """The variables of the container in an environment, as the kubelet puts them together."""
    (container,) = deployment_of(rendered(name))["spec"]["template"]["spec"]["containers"]
    references = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
    maps = {d["metadata"]["name"]: d["data"] for d in documents(name) if d["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for reference in references:
        found.update(maps[reference])
    return found | {variable["name"]: variable["value"] for variable in container["env"]}


def settings_of(name: str) -> Settings:
    return Settings.from_environment(environment_of(name))


# What is rendered


def test_there_is_an_overlay_for_each_environment() -> None:
    assert manifests.environments() == ["production", "staging"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_kubernetes_takes_every_document(environment: str, model: str) -> None:
    for document in documents(environment, model):
        if document["kind"] not in OURS:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_staging_needs_nothing_that_an_old_cluster_has_not() -> None:
    for document in documents("staging"):
        assert document["apiVersion"] in ("v1", "apps/v1", "networking.k8s.io/v1")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_objects_are_named_by_the_model_and_lie_in_one_namespace(environment: str, model: str) -> None:
    instance = model.replace("_", "-")
    assert namespace_of(rendered(environment, model)) == f"assay-{environment}"
    for document in documents(environment, model):
        assert re.fullmatch(rf"assay(-observation)?-{instance}(-[a-z0-9]{{10}})?", document["metadata"]["name"])
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "assay"
        assert labels["app.kubernetes.io/instance"] == instance


def test_the_same_release_is_the_same_text() -> None:
    assert render("production", "surface_crack", *RELEASE) == rendered("production")
    assert not list(manifests.subfolder("tmp").iterdir())


def test_the_ledger_takes_the_text() -> None:
    assert len(rendered("everything")) < MAX_MANIFESTS / 2


def test_the_text_is_canonical() -> None:
    text = rendered("everything")
    order = [(document["kind"], document["metadata"]["name"]) for document in parsed(text)]
    assert order == sorted(order)

    def keys_are_sorted(value: Any) -> bool:
        if isinstance(value, dict):
            return list(value) == sorted(value) and all(map(keys_are_sorted, value.values()))
        return all(map(keys_are_sorted, value)) if isinstance(value, list) else True

    assert keys_are_sorted(parsed(text))


def test_kustomize_reads_the_text_as_it_was_meant(tmp_path: Path) -> None:
    (tmp_path / "release.yaml").write_text(render("staging", "demo", "1e3", "0" * 64, IMAGE))
    (tmp_path / "kustomization.yaml").write_text("resources: [release.yaml]\n")
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True)
    by_kind = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert by_kind == {d["kind"]: d for d in parsed((tmp_path / "release.yaml").read_text())}


def test_a_release_is_of_its_model_version_bundle_and_image(deployment: Document, container: Document) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels["assay/version"], labels["assay/bundle"]) == ("7", DIGEST[:12])
    assert container["image"] == IMAGE
    assert container["name"] == "assay"
    told = {variable["name"]: variable["value"] for variable in container["env"]}
    assert told == {"ASSAY_SERVE_VERSION": "7", "ASSAY_SERVE_DIGEST": DIGEST}


def test_a_new_version_keeps_the_selector() -> None:
    other = render("staging", "surface_crack", "8", "01" * 32, IMAGE.replace("cd", "ef"))
    assert other != rendered("staging")
    assert deployment_of(other)["spec"]["selector"] == deployment_of(rendered("staging"))["spec"]["selector"]
    assert service_of(other) == service_of(rendered("staging"))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_image_is_named_by_a_tag(environment: str) -> None:
    images = re.findall(r"image: (.*)", rendered(environment))
    assert images == [IMAGE]


def test_without_a_release_no_image_can_be_pulled() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(manifests.OVERLAYS / "production")], capture_output=True, text=True, check=True
    )
    assert re.findall(r"image: (.*)", done.stdout) == ["assay@sha256:" + "0" * 64]


# Who finds whom


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def selectors(environment: str, model: str) -> Iterator[dict[str, str]]:
    """Everything that finds pods by their labels."""
    for document in documents(environment, model):
        spec = document.get("spec", {})
        match document["kind"]:
            case "Service":
                yield spec["selector"]
            case "Deployment":
                yield spec["selector"]["matchLabels"]
                for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
                    yield constraint["labelSelector"]["matchLabels"]
            case "NetworkPolicy":
                yield spec["podSelector"]["matchLabels"]
            case "PodDisruptionBudget" | "Rollout":
                yield spec["selector"]["matchLabels"]


@pytest.mark.parametrize(("environment", "count"), [("staging", 5), ("production", 6), ("everything", 8)])
def test_selectors_find_the_pods_of_their_model_and_no_others(environment: str, count: int) -> None:
    mine, other = (
        deployment_of(rendered(environment, model))["spec"]["template"]["metadata"]["labels"] for model in MODELS
    )
    found = list(selectors(environment, MODELS[0]))
    assert len(found) == count
    assert all(selects(selector, mine) for selector in found)
    assert not any(selects(selector, other) for selector in found)


def test_the_monitor_finds_the_service_of_its_model() -> None:
    monitor, service = only("everything", "ServiceMonitor"), only("everything", "Service")
    assert selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert not selects(
        monitor["spec"]["selector"]["matchLabels"], service_of(rendered("everything", "demo"))["metadata"]["labels"]
    )


def test_ports_are_those_of_the_image(container: Document) -> None:
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": int(exposed), "protocol": "TCP"}
    assert f'"--port", "{exposed}"' in DOCKERFILE
    (served,) = only("production", "Service")["spec"]["ports"]
    assert served == {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}
    ingress = only("production", "NetworkPolicy")["spec"]["ingress"]
    assert ingress == [{"ports": [{"port": int(exposed), "protocol": "TCP"}]}]


# The pods


def test_a_rollout_takes_no_pod_away_before_another_is_there(deployment: Document) -> None:
    spec = deployment["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["minReadySeconds"] == 5
    assert spec["progressDeadlineSeconds"] == 120
    assert spec["revisionHistoryLimit"] == 3


def test_one_pod_in_staging_and_two_in_production() -> None:
    assert deployment_of(rendered("staging"))["spec"]["replicas"] == 1
    assert "replicas" not in deployment_of(rendered("production"))["spec"]
    assert only("production", "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2


def test_probes_ask_what_they_are_for(container: Document) -> None:
    asked = {
        name: container[f"{name}Probe"]["httpGet"] | {"seconds": container[f"{name}Probe"]["timeoutSeconds"]}
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {
        "startup": {"path": "/v1/live", "port": "http", "seconds": 3},
        "liveness": {"path": "/v1/live", "port": "http", "seconds": 5},
        "readiness": {"path": "/v1/ready", "port": "http", "seconds": 3},
    }


def test_probes_are_patient_where_that_is_safe(deployment: Document, container: Document) -> None:
    patience = {
        name: (container[f"{name}Probe"]["periodSeconds"], container[f"{name}Probe"]["failureThreshold"])
        for name in ("startup", "liveness", "readiness")
    }
    assert patience == {"startup": (1, 60), "liveness": (10, 3), "readiness": (2, 2)}
    assert deployment["spec"]["progressDeadlineSeconds"] > 60


def test_a_pod_that_goes_is_left_first_and_then_finishes_what_it_began(pod: Document, container: Document) -> None:
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert int(seconds) >= 3
    served = settings_of("everything")
    work = served.body_timeout_s + served.timeout_s
    assert int(seconds) + work < pod["terminationGracePeriodSeconds"] <= int(seconds) + work + 10


def test_memory_is_bounded_and_reserved(container: Document) -> None:
    assert container["resources"] == {
        "requests": {"cpu": "250m", "memory": "512Mi"},
        "limits": {"memory": "512Mi"},
    }


def test_a_pod_may_do_nothing_that_it_need_not(pod: Document, container: Document) -> None:
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert "USER 10001:10001" in DOCKERFILE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)


def test_a_pod_writes_to_memory_and_nowhere_else(pod: Document, container: Document) -> None:
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_pod_has_an_account_of_its_own_and_no_token(environment: str) -> None:
    pod = deployment_of(rendered(environment))["spec"]["template"]["spec"]
    account = only(environment, "ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_an_image_that_is_there_is_not_asked_for_again(container: Document) -> None:
    assert container["imagePullPolicy"] == "IfNotPresent"


def test_pods_are_spread_where_that_is_possible(pod: Document) -> None:
    spread = pod["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert {(constraint["maxSkew"], constraint["whenUnsatisfiable"]) for constraint in spread} == {
        (1, "ScheduleAnyway")
    }


# Settings


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_settings_exist_and_are_possible(environment: str) -> None:
    assert all(name.startswith(PREFIX) for name in environment_of(environment))
    chosen = settings_of(environment)
    assert (chosen.version, chosen.digest) == ("7", DIGEST)
    assert chosen.workers == 2
    assert chosen.queue == 64
    assert (chosen.max_body_bytes, chosen.body_timeout_s, chosen.timeout_s) == (20_000_000, 20, 30)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_settings_cannot_change_under_a_pod(environment: str) -> None:
    settings_map = only(environment, "ConfigMap")
    assert settings_map["immutable"] is True
    assert re.fullmatch(r"assay-surface-crack-[a-z0-9]{10}", settings_map["metadata"]["name"])


def test_changed_settings_are_other_pods() -> None:
    (mine,) = deployment_of(rendered("staging"))["spec"]["template"]["spec"]["containers"]
    (other,) = deployment_of(rendered("everything"))["spec"]["template"]["spec"]["containers"]
    assert mine["envFrom"][0] != other["envFrom"][0]


# The network


def test_nothing_goes_out_but_questions_for_names() -> None:
    spec = only("production", "NetworkPolicy")["spec"]
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    (rule,) = spec["egress"]
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
    (to,) = rule["to"]
    assert set(to) == {"namespaceSelector", "podSelector"}
    assert selected(to["namespaceSelector"]) == {"kubernetes.io/metadata.name": ["kube-system"]}
    assert selected(to["podSelector"]) == {"k8s-app": ["kube-dns"]}


def selected(selector: Document) -> dict[str, list[str]]:
    assert set(selector) == {"matchExpressions"}
    assert {part["operator"] for part in selector["matchExpressions"]} == {"In"}
    return {part["key"]: part["values"] for part in selector["matchExpressions"]}


def test_a_trial_is_held_as_the_service_is_and_does_not_reach_the_bucket() -> None:
    given = documents("everything")
    trial = Trial.of(given, "surface-crack", "0123456789ab")
    found = {one["metadata"]["name"]: one["spec"]["podSelector"] for one in given if one["kind"] == "NetworkPolicy"}
    labels = trial.pod["metadata"]["labels"]
    assert {name: selects(selector["matchLabels"], labels) for name, selector in found.items()} == {
        "assay-surface-crack": True,
        "assay-observation-surface-crack": False,
    }
    assert [set(selector) for selector in found.values()] == [{"matchLabels"}] * 2
    assert set(found) <= {one["metadata"]["name"] for one in trial.standing}
    (container,) = trial.pod["spec"]["containers"]
    assert [set(source) for source in container["envFrom"]] == [{"configMapRef"}]


def test_the_bucket_is_nobody_until_an_overlay_says_who() -> None:
    spec = only("everything", "NetworkPolicy", "assay-observation")["spec"]
    assert spec["policyTypes"] == ["Egress"]
    assert spec["egress"] == [
        {"to": [{"ipBlock": {"cidr": "192.0.2.0/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]}
    ]


def test_observation_is_for_those_who_ask_for_it() -> None:
    assert settings_of("production").observe_to == ""
    chosen = settings_of("everything")
    assert (chosen.observe_to, chosen.observe_rate) == ("s3://pictures/seen", 0.01)
    (container,) = deployment_of(rendered("everything"))["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"][1] == {"secretRef": {"name": "assay-observation"}}


# Components


def test_production_scales_and_bears_a_drained_node() -> None:
    scaler = only("production", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "assay-surface-crack"}
    (metric,) = scaler["metrics"]
    target = metric["resource"]["target"]
    assert target == {"type": "AverageValue", "averageValue": f"{settings_of('production').workers * 700}m"}
    budget = only("production", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1 < scaler["minReplicas"] < scaler["maxReplicas"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_alert_rules_are_those_that_are_tested() -> None:
    rules = yaml.safe_load((ROOT / "serving" / "monitoring" / "rules.yaml").read_text())
    assert only("everything", "PrometheusRule")["spec"] == rules
    assert rules["groups"]


def test_metrics_are_read_where_they_are() -> None:
    (endpoint,) = only("everything", "ServiceMonitor")["spec"]["endpoints"]
    (port,) = only("everything", "Service")["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/v1/metrics")


def test_the_ingress_has_the_limits_of_the_settings() -> None:
    ingress, chosen = only("everything", "Ingress"), settings_of("everything")
    limits = {name.split("/")[1]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert int(limits["proxy-body-size"]) == chosen.max_body_bytes
    work = chosen.body_timeout_s + chosen.timeout_s
    assert work < int(limits["timeout-server"].removesuffix("s")) <= work + 5
    assert limits["timeout-http-request"] == "5s"
    assert limits["ssl-redirect"] == "true"


def test_the_ingress_leads_to_the_service_by_a_host_of_the_model() -> None:
    spec, service = only("everything", "Ingress")["spec"], only("everything", "Service")
    (rule,) = spec["rules"]
    assert rule["host"] == "surface-crack.example.org"
    assert spec["tls"] == [{"hosts": ["surface-crack.example.org"], "secretName": "assay-tls"}]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/", "Prefix")
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": service["spec"]["ports"][0]["name"]},
    }


# Kinds that bring their own schema: these fields exist, by the documents of the Prometheus operator and Argo Rollouts.


def of(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Document:
    """A schema of an object with these fields and no others."""
    properties = required | (optional or {})
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER, TRUTH = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
DURATION = {"type": "string", "pattern": r"^\d+[smh]$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
SELECTOR = of({"matchLabels": TEXTS})
RULE = of({"alert": TEXT, "expr": TEXT, "for": DURATION, "labels": TEXTS, "annotations": TEXTS})
ARGUMENT = of({"name": TEXT}, {"value": TEXT})
STEPS = [
    of({"setWeight": {"type": "integer", "minimum": 1, "maximum": 99}}),
    of({"pause": of({"duration": DURATION})}),
    of(
        {
            "analysis": of(
                {
                    "templates": {"type": "array", "items": of({"templateName": TEXT}), "minItems": 1},
                    "args": {
                        "type": "array",
                        "items": of(
                            {
                                "name": TEXT,
                                "valueFrom": of(
                                    {},
                                    {
                                        "podTemplateHashValue": {"enum": ["Latest", "Stable"]},
                                        "fieldRef": of({"fieldPath": TEXT}),
                                    },
                                ),
                            }
                        ),
                    },
                }
            )
        }
    ),
]
SCHEMAS = {
    "ServiceMonitor": (
        "monitoring.coreos.com/v1",
        of(
            {
                "selector": SELECTOR,
                "podTargetLabels": {"type": "array", "items": TEXT},
                "endpoints": {
                    "type": "array",
                    "items": of({"port": TEXT, "path": TEXT, "interval": DURATION, "scrapeTimeout": DURATION}),
                },
            }
        ),
    ),
    "PrometheusRule": (
        "monitoring.coreos.com/v1",
        of({"groups": {"type": "array", "items": of({"name": TEXT, "rules": {"type": "array", "items": RULE}})}}),
    ),
    "Rollout": (
        "argoproj.io/v1alpha1",
        of(
            {
                "revisionHistoryLimit": NUMBER,
                "minReadySeconds": NUMBER,
                "progressDeadlineSeconds": NUMBER,
                "progressDeadlineAbort": TRUTH,
                "selector": SELECTOR,
                "workloadRef": of(
                    {
                        "apiVersion": {"const": "apps/v1"},
                        "kind": {"const": "Deployment"},
                        "name": TEXT,
                        "scaleDown": {"enum": ["never", "onsuccess", "progressively"]},
                    }
                ),
                "strategy": of(
                    {
                        "canary": of(
                            {
                                "maxSurge": NUMBER,
                                "maxUnavailable": {"const": 0},
                                "steps": {"type": "array", "items": {"oneOf": STEPS}},
                            }
                        )
                    }
                ),
            }
        ),
    ),
    "AnalysisTemplate": (
        "argoproj.io/v1alpha1",
        of(
            {
                "args": {"type": "array", "items": ARGUMENT},
                "metrics": {
                    "type": "array",
                    "items": of(
                        {
                            "name": TEXT,
                            "count": NUMBER,
                            "failureLimit": {"const": 0},
                            "successCondition": TEXT,
                            "provider": of({"prometheus": of({"address": TEXT, "query": TEXT})}),
                        }
                    ),
                },
            }
        ),
    ),
}


@pytest.mark.parametrize("kind", OURS)
def test_what_operators_bring_is_used_as_they_say(kind: str) -> None:
    version, schema = SCHEMAS[kind]
    document = only("everything", kind)
    assert document["apiVersion"] == version
    Draft202012Validator(schema).validate(document["spec"])


# The canary


def analysis() -> Document:
    spec: Document = only("everything", "AnalysisTemplate")["spec"]
    return spec


def test_the_rollout_takes_its_pods_from_the_deployment_and_leaves_it_none() -> None:
    rollout, deployment = only("everything", "Rollout"), only("everything", "Deployment")
    assert rollout["spec"]["workloadRef"]["name"] == deployment["metadata"]["name"]
    assert rollout["spec"]["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["replicas"] == 0
    scaler = only("everything", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": rollout["apiVersion"],
        "kind": "Rollout",
        "name": rollout["metadata"]["name"],
    }
    weight = rollout["spec"]["strategy"]["canary"]["steps"][0]["setWeight"]
    assert scaler["minReplicas"] * weight % 100 == 0


def test_a_canary_is_judged_before_there_are_more_of_it() -> None:
    steps = only("everything", "Rollout")["spec"]["strategy"]["canary"]["steps"]
    assert [next(iter(step)) for step in steps] == ["setWeight", "pause", "analysis", "setWeight", "pause"]
    judged = steps[2]["analysis"]
    assert judged["templates"] == [{"templateName": only("everything", "AnalysisTemplate")["metadata"]["name"]}]
    wanted = {argument["name"] for argument in analysis()["args"] if "value" not in argument}
    assert {argument["name"] for argument in judged["args"]} == wanted
    used = re.findall(r"\{\{\s*args\.([\w-]+)\s*\}\}", str(analysis()["metrics"]))
    assert set(used) == {argument["name"] for argument in analysis()["args"]}


def succeeds(metric: Document, result: list[float]) -> bool:
    """Argo Rollouts' judgement; its expressions are read by Python's rules, which agree for these."""
    condition = metric["successCondition"].replace("&&", "and").replace("||", "or")
    return bool(eval(condition, {"__builtins__": {"len": len}}, {"result": result}))


@pytest.mark.parametrize("name", ["answers", "errors", "seconds", "ready"])
def test_a_canary_that_shows_nothing_fails(name: str) -> None:
    (metric,) = [metric for metric in analysis()["metrics"] if metric["name"] == name]
    assert not succeeds(metric, [])
    assert not succeeds(metric, [float("nan")])
    good, bad = {"answers": (20, 19), "errors": (0, 0.02), "seconds": (1, 1.1), "ready": (1, 0)}[name]
    assert succeeds(metric, [good])
    assert not succeeds(metric, [bad])


def test_nothing_else_is_judged() -> None:
    assert {metric["name"] for metric in analysis()["metrics"]} == {"answers", "errors", "seconds", "ready"}


PROMTOOL = shutil.which("promtool")
MINE, OTHERS = 'namespace="ns",rollouts_pod_template_hash="new"', 'namespace="ns",rollouts_pod_template_hash="old"'


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: package prometheus)")
@pytest.mark.parametrize(
    ("series", "succeed"),
    [
        pytest.param({}, set(), id="nothing is scraped"),
        pytest.param({f'assay_ready{{{MINE}}}': "1+0x20"}, {"ready"}, id="nobody asks"),
        pytest.param(
            {f'assay_requests_total{{{OTHERS},route="predict",code="200"}}': "0+60x20"}, set(), id="others are asked"
        ),
        pytest.param(
            {
                f'assay_ready{{{MINE}}}': "1+0x20",
                f'assay_requests_total{{{MINE},route="predict",code="200"}}': "0+60x20",
                f'assay_requests_total{{{OTHERS},route="predict",code="500"}}': "0+60x20",
                f'assay_request_seconds_bucket{{{MINE},route="predict",le="0.5"}}': "0+60x20",
                f'assay_request_seconds_bucket{{{MINE},route="predict",le="+Inf"}}': "0+60x20",
            },
            {"answers", "errors", "seconds", "ready"},
            id="never failed",
        ),
        pytest.param(
            {
                f'assay_ready{{{MINE}}}': "0+0x17 1 1 1",
                f'assay_requests_total{{{MINE},route="predict",code="200"}}': "0+57x20",
                f'assay_requests_total{{{MINE},route="predict",code="500"}}': "0+3x20",
                f'assay_request_seconds_bucket{{{MINE},route="predict",le="1"}}': "0+50x20",
                f'assay_request_seconds_bucket{{{MINE},route="predict",le="2.5"}}': "0+60x20",
                f'assay_request_seconds_bucket{{{MINE},route="predict",le="+Inf"}}': "0+60x20",
            },
            {"answers"},
            id="fails, is slow and was away",
        ),
    ],
)  # fmt: skip
def test_prometheus_gives_the_analysis_what_it_judges(
    series: dict[str, str], succeed: set[str], tmp_path: Path
) -> None:
    assert PROMTOOL
    found = {
        metric["name"]: evaluated(PROMTOOL, query_of(metric), series, tmp_path) for metric in analysis()["metrics"]
    }
    assert {metric["name"] for metric in analysis()["metrics"] if succeeds(metric, found[metric["name"]])} == succeed


def query_of(metric: Document) -> str:
    query: str = metric["provider"]["prometheus"]["query"]
    return query.replace("{{args.namespace}}", "ns").replace("{{args.canary}}", "new")


def evaluated(promtool: str, query: str, series: dict[str, str], folder: Path) -> list[float]:
    """What Prometheus finds: promtool is told to expect nonsense, and says what it got."""
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "20m", "exp_samples": [{"labels": '{no="thing"}', "value": 0}]}
                ],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], capture_output=True, text=True, cwd=folder, check=False
    )
    (got,) = re.findall(r"got:(.*)", done.stdout + done.stderr)
    return [float(value) for value in re.findall(r"\} ([\d.eE+-]+|NaN)", got)]


# Who may promote


@cache
def access(environment: str) -> list[Document]:
    folder = manifests.K8S / "access" / environment
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_access_is_to_the_namespace_of_the_environment(environment: str) -> None:
    for document in access(environment):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    by_kind = {document["kind"]: document for document in access(environment)}
    assert set(by_kind) == {"Namespace", "ServiceAccount", "Role", "RoleBinding"}
    namespace = namespace_of(rendered(environment))
    assert by_kind["Namespace"]["metadata"]["name"] == namespace
    assert {by_kind[kind]["metadata"]["namespace"] for kind in set(by_kind) - {"Namespace"}} == {namespace}
    assert by_kind["RoleBinding"]["subjects"] == [
        {"kind": "ServiceAccount", "name": "assay-promoter", "namespace": namespace}
    ]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"] == "assay-promoter"


def verbs(environment: str) -> dict[tuple[str, str], set[str]]:
    """API group and resource, to what the promoter may do with it."""
    (role,) = [document for document in access(environment) if document["kind"] == "Role"]
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            (group,) = rule["apiGroups"]
            assert (group, resource) not in found
            found[group, resource] = set(rule["verbs"])
    return found


def test_the_promoter_may_apply_whatever_a_release_can_hold() -> None:
    allowed = verbs("production")
    for document in documents("everything"):
        group = document["apiVersion"].rpartition("/")[0]
        if group == "argoproj.io":  # whose controller deploys, and the rollout refuses
            continue
        plural = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}.get(
            document["kind"], document["kind"].lower() + "s"
        )
        listed = {"list"} if plural == "configmaps" else set()
        assert {"get", "create", "patch", "delete"} | listed == allowed[group, plural]


def test_the_promoter_may_not_become_anybody_else() -> None:
    for environment in ("staging", "production"):
        allowed = verbs(environment)
        assert not {"*"} & {name for key in allowed for name in key} | {"*"} & set.union(*allowed.values())
        assert not {"secrets", "pods/exec", "pods/attach", "serviceaccounts/token", "roles", "rolebindings"} & {
            resource for _, resource in allowed
        }
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set.union(*allowed.values())


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "moon"}, r"environment 'moon': has no overlay in .*; there are: production, staging"),
        ({"environment": "../base"}, "environment '../base': has no overlay"),
        ({"environment": ""}, "environment '': has no overlay"),
        ({"model": "crack_"}, "model 'crack_': cannot be a label"),
        ({"model": "Crack"}, "model 'Crack': cannot be a label"),
        ({"model": "c" * 58}, "longer than the 57 characters"),
        ({"version": ""}, "version '': cannot be a label"),
        ({"version": "1\n"}, r"version '1\\n': cannot be a label"),
        ({"version": "v" * 64}, "cannot be a label"),
        ({"bundle_digest": "ab"}, "bundle digest 'ab': must be 64 hexadecimal digits"),
        ({"bundle_digest": "AB" * 32}, "must be 64 hexadecimal digits"),
        ({"image": "assay:latest"}, "image 'assay:latest': must be name@sha256"),
        ({"image": "assay:1@" + SHA}, "must be name@sha256"),
        ({"image": "assay@sha256:" + "0" * 63}, "must be name@sha256"),
        ({"image": SHA}, "must be name@sha256"),
    ],
)
def test_a_release_that_is_none_is_refused_in_one_line(change: dict[str, str], message: str) -> None:
    told = {"environment": "staging", "model": "demo", "version": "1", "bundle_digest": DIGEST, "image": IMAGE}
    with pytest.raises(ManifestError, match=message) as caught:
        render(**(told | change))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


NASTY = st.sampled_from(
    [
        "$(id)",
        "`id`",
        "; rm -rf /",
        "\n- op: remove",
        "{a: b}",
        "!!python/name:os",
        "&a *a",
        "~",
        "#",
        ": x",
        "%s",
        "\0",
        "../..",
        "🦊",
        "ſ",
    ]
)
TEXTS_OF_EVIL = st.text() | st.builds("".join, st.lists(NASTY | st.text(max_size=5), max_size=4))


@pytest.mark.parametrize("argument", ["environment", "model", "version", "bundle_digest", "image"])
@settings(max_examples=100)
@given(value=TEXTS_OF_EVIL)
def test_what_is_in_no_label_gets_nowhere(argument: str, value: str) -> None:
    told = {"environment": "staging", "model": "demo", "version": "1", "bundle_digest": DIGEST, "image": IMAGE}
    plain = {"environment": "production|staging", "model": "[a-z][a-z0-9_]*", "version": r"[A-Za-z0-9._-]+"}
    if re.fullmatch(plain.get(argument, "-"), value):
        return
    with pytest.raises(ManifestError):
        render(**(told | {argument: value}))


@settings(max_examples=6)
@given(
    model=st.from_regex(r"[a-z]([a-z0-9_]{0,55}[a-z0-9])?", fullmatch=True),
    version=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", fullmatch=True),
    digest=st.from_regex(r"[0-9]{0,11}e?[0-9]{52}", fullmatch=True).map(lambda text: text.rjust(64, "0")),
    name=st.from_regex(
        r"([a-z0-9]{1,9}(\.[a-z]{1,3})?:[0-9]{1,5}/)?[a-z0-9]{1,4}([._-][a-z0-9]{1,4}){0,2}", fullmatch=True
    ),
)
@example(model="null", version="null", digest="0" * 64, name="true")
@example(model="n", version="0x1F", digest="1" * 5 + "e" + "2" * 58, name="1e3")
@example(model="y", version="2026-11-22", digest="9" * 64, name="a")
@example(model="on", version="1_000", digest="e" * 64, name="localhost:5000/a")
def test_whatever_can_be_a_label_stays_what_it_is(model: str, version: str, digest: str, name: str) -> None:
    text = render("production", model, version, digest, f"{name}@{SHA}")
    deployment = deployment_of(text)
    template = deployment["spec"]["template"]
    assert deployment["metadata"]["name"] == "assay-" + model.replace("_", "-")
    assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == model.replace("_", "-")
    assert template["metadata"]["labels"]["assay/version"] == version
    assert template["metadata"]["labels"]["assay/bundle"] == digest[:12]
    (container,) = template["spec"]["containers"]
    assert container["image"] == f"{name}@{SHA}"
    assert [variable["value"] for variable in container["env"]] == [version, digest]
    assert all(len(d["metadata"]["name"]) <= 63 or d["kind"] == "ConfigMap" for d in parsed(text))


# Overlays of somebody else's


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kustomization of one's own on the base, as the environment `mine`."""
    folder = tmp_path / "overlays" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.setenv("ASSAY_OVERLAYS", str(folder.parent))
    return folder


def write(overlay: Path, **fields: Any) -> None:
    base = os.path.relpath(manifests.K8S / "base", overlay.resolve())
    content = {"namespace": "mine", **fields, "resources": [base, *fields.get("resources", [])]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))


def test_an_overlay_elsewhere_is_taken(overlay: Path) -> None:
    write(overlay)
    assert namespace_of(render("mine", "demo", *RELEASE)) == "mine"


def test_an_overlay_may_lie_behind_a_link(overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(overlay)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "link").symlink_to(overlay.parent)
    monkeypatch.setenv("ASSAY_OVERLAYS", str(tmp_path / "deep" / "er" / "link"))
    assert namespace_of(render("mine", "demo", *RELEASE)) == "mine"


def refusal(overlay: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        render("mine", "demo", *RELEASE)
    assert "\n" not in str(caught.value)
    assert not list(manifests.subfolder("tmp").iterdir())
    return str(caught.value)


def test_an_overlay_that_is_broken_is_refused(overlay: Path) -> None:
    (overlay / "kustomization.yaml").write_text("resources: [\n")
    assert str(overlay) in refusal(overlay)
    write(overlay, resources=["absent.yaml"])
    assert "absent.yaml" in refusal(overlay)


def test_an_overlay_without_a_namespace_is_refused(overlay: Path) -> None:
    write(overlay, namespace="")
    assert "in no namespace" in refusal(overlay)


def test_a_container_beside_ours_needs_a_digest_too(overlay: Path) -> None:
    beside = [{"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "x", "image": "busybox:1"}}]
    write(overlay, patches=[{"target": {"kind": "Deployment"}, "patch": yaml.safe_dump(beside)}])
    assert "image 'busybox:1' in the overlay" in refusal(overlay)


def test_an_overlay_cannot_set_another_image(overlay: Path) -> None:
    write(overlay, images=[{"name": "assay", "newName": "other", "digest": "sha256:" + "9" * 64}])
    assert f"has not the image {IMAGE}" in refusal(overlay)


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_a_release_has_one_of_each(overlay: Path, kind: str) -> None:
    more = copy.deepcopy(only("staging", kind))
    more["metadata"]["name"] = "more"
    more["metadata"]["namespace"] = "mine"
    (overlay / "more.yaml").write_text(yaml.safe_dump(more))
    write(overlay, resources=["more.yaml"])
    assert f"2 objects of the kind {kind}" in refusal(overlay)


def test_nothing_is_fetched_by_git(overlay: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    (origin / "sub").mkdir(parents=True)
    (origin / "sub" / "kustomization.yaml").write_text("configMapGenerator: [{name: remote, literals: [a=b]}]\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "x"]):
        subprocess.run(["git", *arguments], cwd=origin, check=True, capture_output=True)
    write(overlay, resources=[f"file://{origin}//sub"])
    subprocess.run(["kubectl", "kustomize", str(overlay)], check=True, capture_output=True)
    assert "nothing is fetched" in refusal(overlay)


def test_nothing_is_fetched_over_http(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    write(overlay, resources=["http://manifests.invalid/all.yaml"])
    assert "nothing is fetched" in refusal(overlay)


def test_without_kubectl_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ManifestError, match="kubectl is not on PATH: install it"):
        render("staging", "demo", *RELEASE)


def test_a_kubectl_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubectl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(manifests, "KUSTOMIZE_S", 0.2)
    with pytest.raises(ManifestError, match="timed out"):
        render("staging", "demo", *RELEASE)
