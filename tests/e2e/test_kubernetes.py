"""The training pipeline as pods of a real cluster, without Kubeflow, against a team's real services on this machine.

    export KUBECONFIG=… ASSAY_TEST_CLUSTER_LOAD=tests/load_images     # as for `make test-cluster`
    export ASSAY_TEST_STEPS_IMAGE=…      # the steps' image, as the nodes of the cluster have it: nothing is pulled
    pytest -m cluster tests/e2e/test_kubernetes.py

Whoever starts the runs has the rights of `assay-submitter`, and no more. What came of a run is read from ZenML, MLflow,
the ledger in S3 and the cluster.
"""

import base64
import json
import os
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="needs the extra kubeflow")

from cluster import Kube, kube, reached_from
from person import ROOT, Person, person
from team import PASSWORD, USER, Team, team

__all__ = ["kube"]

pytestmark = pytest.mark.cluster

STEPS = ["ingest", "validate", "split", "train", "export", "evaluate", "gate", "report", "register"]
SMALL = {
    "data": {"source": "synthetic://concrete?count=240&seed=3&size=64", "image_size": 32},
    "policy": {"floors": {"accuracy": 0.2}, "champion": {"rule": "non_inferior", "margin": 0.6}},
}
"""Little enough for a model that has hardly been trained, and for 35 test images."""
OF_ALL = {"cpu": 0.5, "memory": "2Gi"}
OF_TRAIN = {"cpu": 1, "memory": "3Gi", "shm": "128Mi", "retries": 1, "time_limit": 1200, "labels": {"team": "walls"}}


@pytest.fixture(scope="module")
def image(kube: Kube) -> str:
    name = os.environ.get("ASSAY_TEST_STEPS_IMAGE", "")
    if not name:
        pytest.skip("no image of the steps: set ASSAY_TEST_STEPS_IMAGE to one that the cluster's nodes have")
    return name


@pytest.fixture(scope="module")
def services(kube: Kube, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Reached by the pods at the address by which this machine reaches their node."""
    with team(tmp_path_factory.mktemp("team"), reached_from(kube)) as up:
        yield up


@dataclass(frozen=True)
class Namespace:
    """One of the test's own, made by `stacks/cluster/pipelines`."""

    kube: Kube
    name: str

    def get(self, *arguments: str) -> Any:
        return self.kube.get(f"--namespace={self.name}", *arguments)

    def of_a_run(self, kind: str, run: str) -> list[dict[str, Any]]:
        """Objects of a run, by its name."""
        return list(self.get(kind, f"--selector=run_name={run}")["items"])

    def ended_pods(self, run: str) -> list[dict[str, Any]]:
        """Those of a run that is over: a pod is a little longer, for its containers end after it has said so."""
        for _ in range(60):
            pods = self.of_a_run("pods", run)
            if all(pod["status"]["phase"] in {"Succeeded", "Failed"} for pod in pods):
                return pods
            time.sleep(1)
        raise AssertionError({pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods})


@pytest.fixture(scope="module")
def namespace(kube: Kube, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    folder, name = tmp_path_factory.mktemp("overlay"), f"assay-test-{uuid.uuid4().hex[:8]}"
    base = os.path.relpath(ROOT / "stacks" / "cluster" / "pipelines", folder.resolve())
    (folder / "kustomization.yaml").write_text(json.dumps({"namespace": name, "resources": [base]}))
    kube("apply", "--filename=-", given=kube("kustomize", str(folder)))
    yield Namespace(kube, name)
    kube("delete", "namespace", name, "--wait=false")


def written(folder: Path, of_all: Mapping[str, Any], **steps: Mapping[str, Any]) -> Path:
    """The shipped demo, made small, with these settings of the pods."""
    document = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    document["parameters"]["use_case"].update(SMALL)
    document["parameters"]["use_case"]["recipe"].update(epochs=2, precision="fp32", channels_last=True)
    document["settings"] = {"orchestrator": dict(of_all)}
    document["steps"] = {name: {"settings": {"orchestrator": dict(asked)}} for name, asked in steps.items()}
    path = folder / f"{uuid.uuid4().hex[:8]}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def somebody(services: Team, namespace: Namespace, image: str, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Has applied the stack and set it, with the rights of whoever starts runs."""
    home = tmp_path_factory.mktemp("person")
    own = {
        "ASSAY_IMAGE": image, "ASSAY_ANY_TAG": str("@sha256:" not in image).lower(),
        "ASSAY_REGISTRY": "registry.invalid", "KUBECONFIG": str(submitter(namespace, home)),
        "KUBERNETES_CONTEXT": "submitter", "KUBERNETES_NAMESPACE": namespace.name,
    }  # fmt: skip
    made = person(home, **services.environment, **own)
    made.good("stack", "apply", "kubernetes")
    made.good("stack", "set", "kubernetes", module="zenml")
    return made


def submitter(namespace: Namespace, folder: Path) -> Path:
    config = json.loads(namespace.kube("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
    create = ["create", "token", "assay-submitter", f"--namespace={namespace.name}", "--duration=3h"]
    token = namespace.kube(*create).strip()
    context = {"cluster": config["clusters"][0]["name"], "user": "submitter"}
    config |= {"users": [{"name": "submitter", "user": {"token": token}}], "current-context": "submitter"}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config | {"contexts": [{"name": "submitter", "context": context}]}))
    return path


@dataclass(frozen=True)
class Trained:
    """What a run printed, and what it left in the cluster."""

    said: dict[str, Any]
    screen: str
    config: Path
    pods: dict[str, list[dict[str, Any]]]
    """By step; that of the orchestrator has none."""

    def container(self, step: str) -> dict[str, Any]:
        return dict(self.pods[step][0]["spec"]["containers"][0])


@pytest.fixture(scope="module")
def trained(somebody: Person, namespace: Namespace) -> Trained:
    """The pipeline, as it is meant to be."""
    config = written(somebody.home, OF_ALL, train=OF_TRAIN)
    done = somebody.run("train", str(config), "--json")
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    said = json.loads(done.stdout)
    pods: dict[str, list[dict[str, Any]]] = {}
    for pod in namespace.ended_pods(said["run"]):
        pods.setdefault(pod["metadata"]["labels"].get("step_name", ""), []).append(pod)
    return Trained(said, done.stderr, config, pods)


LOOK = """
import json, sys
from zenml.client import Client
runs = Client().list_pipeline_runs(size=100, hydrate=True).items
print(json.dumps([
    {"name": run.name, "status": run.status.value, "steps": {n: s.status.value for n, s in run.steps.items()},
     "artifacts": {n: sorted(s.outputs) for n, s in run.steps.items()}} for run in runs
]))
"""


def runs(somebody: Person) -> dict[str, dict[str, Any]]:
    """All runs that ZenML has, by name."""
    return {run["name"]: run for run in json.loads(somebody.good(module=LOOK))}


def versions(services: Team, model: str = "demo") -> list[dict[str, Any]]:
    """What MLflow has of a registered model."""
    request = urllib.request.Request(
        f"{services.mlflow}/api/2.0/mlflow/model-versions/search?filter=name%3D%27{model}%27"
    )
    request.add_header("Authorization", f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.load(answer).get("model_versions", []))


def test_the_doctor_finds_no_fault(somebody: Person) -> None:
    config = written(somebody.home, OF_ALL | {"volumes": [{"claim": "assay-data", "path": "/data"}]})
    told = somebody.good("stack", "doctor", str(config))
    assert [line.split()[0] for line in told.splitlines()] == ["good"] * len(told.splitlines()), told
    assert "assay-data, assay-orchestrator, assay-step" in told


def test_a_run_is_told_like_one_on_this_machine(trained: Trained) -> None:
    assert trained.said["verdict"]["decision"] == "PROMOTE"
    assert trained.said["ran"] == STEPS
    assert Path(trained.said["report"]).is_file()
    for word in ("Traceback", "Warning", "WARNING", "deprecat"):
        assert word not in trained.screen
    for step in STEPS:
        assert f"{step:<9} completed" in trained.screen  # as ZenML said it, while we waited


def test_each_step_ran_once_in_a_pod_of_its_own(trained: Trained, image: str) -> None:
    assert set(trained.pods) == {"", *STEPS}
    for step, pods in trained.pods.items():
        assert [pod["status"]["phase"] for pod in pods] == ["Succeeded"], step
        assert trained.container(step)["image"] == image
        assert trained.container(step)["securityContext"]["privileged"] is False


def test_each_pod_got_what_its_step_asks_for(trained: Trained) -> None:
    for step in STEPS:
        resources = trained.container(step)["resources"]
        wanted = OF_TRAIN if step == "train" else OF_ALL
        assert resources["limits"] == resources["requests"]
        assert resources["limits"]["memory"] == wanted["memory"]
        assert resources["limits"]["cpu"] in {"1", "500m"}
        assert bool(trained.container(step).get("volumeMounts")) == (step == "train")
    pod = trained.pods["train"][0]
    assert pod["spec"]["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "128Mi"}}]
    assert pod["spec"]["activeDeadlineSeconds"] == 1200
    assert pod["metadata"]["labels"]["team"] == "walls"


def test_a_step_s_pod_may_do_nothing_in_the_cluster_and_its_manifest_holds_no_secret(trained: Trained) -> None:
    for step in STEPS:
        spec = trained.pods[step][0]["spec"]
        assert spec["serviceAccountName"] == "assay-step"
        mounts = [mount["mountPath"] for mount in trained.container(step).get("volumeMounts", [])]
        assert not [path for path in mounts if "serviceaccount" in path]
    assert trained.pods[""][0]["spec"]["serviceAccountName"] == "assay-orchestrator"
    manifests = json.dumps(trained.pods)
    assert PASSWORD not in manifests
    assert "eyJ" not in manifests


def test_the_run_s_token_is_gone_with_the_run(trained: Trained, namespace: Namespace) -> None:
    assert trained
    names = [secret["metadata"]["name"] for secret in namespace.get("secrets")["items"]]
    assert not [name for name in names if name.startswith("zenml-token")]


def test_zenml_mlflow_and_the_ledger_say_the_same(trained: Trained, somebody: Person, services: Team) -> None:
    run = runs(somebody)[trained.said["run"]]
    assert (run["status"], run["steps"]) == ("completed", dict.fromkeys(STEPS, "completed"))
    registered = versions(services)
    assert [one["version"] for one in registered] == ["1"]
    tags = {tag["key"]: tag["value"] for tag in registered[0]["tags"]}
    assert "PROMOTE" in tags.values()
    assert trained.said["model"]["digest"] in tags.values()
    entries = json.loads(somebody.good("ledger", "list", "demo", "--json"))["entries"]
    assert [entry["body"]["kind"] for entry in entries] == ["look", "verdict"]
    assert trained.said["model"]["digest"] in json.dumps(entries[-1])
    assert somebody.good("ledger", "verify", "demo") == "the ledger holds\n"


BUNDLE = """
import json
from assay.registry import fetch, find
print((fetch(find("demo@1")).folder / "bundle.json").read_text())
"""


def test_the_bundle_is_that_of_a_run_on_this_machine(
    trained: Trained, somebody: Person, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of another Python the bundle says so, and its card: nothing else may differ."""
    of_the_pods = json.loads(somebody.good(module=BUNDLE))
    here = person(tmp_path_factory.mktemp("here"), ASSAY_COMMIT=of_the_pods["meta"]["lineage"]["git_commit"])
    said = json.loads(here.good("train", str(trained.config), "--json"))
    of_this_machine = json.loads(here.good(module=BUNDLE))
    pythons = {one["meta"]["lineage"]["versions"].pop("python") for one in (of_the_pods, of_this_machine)}
    if len(pythons) == 1:
        assert said["model"]["digest"] == trained.said["model"]["digest"]
    for one in (of_the_pods, of_this_machine):
        del one["seal"], one["files"]["card.md"]
    assert of_this_machine == of_the_pods
    assert {"model.onnx", "weights.safetensors"} <= set(of_the_pods["files"])


def test_the_same_again_runs_nothing_and_registers_nothing(
    trained: Trained, somebody: Person, services: Team, namespace: Namespace
) -> None:
    said = json.loads(somebody.good("train", str(trained.config), "--json"))
    assert (said["ran"], said["model"]["version"]) == ([], "1")
    assert len(versions(services)) == 1
    pods = namespace.of_a_run("pods", said["run"])
    assert [pod["metadata"]["labels"].get("step_name") for pod in pods] == [None]


def nothing_came_of_it(somebody: Person, services: Team, before: int) -> dict[str, Any]:
    """The newest run, which failed, and of which there is neither a bundle nor a version."""
    newest = next(iter(runs(somebody).values()))
    assert newest["status"] == "failed"
    assert not {"export", "register"} & {step for step, status in newest["steps"].items() if status == "completed"}
    assert len(versions(services)) == before
    return newest


def test_a_claim_that_is_not_there_is_told_before_anything_starts(
    trained: Trained, somebody: Person, services: Team, namespace: Namespace
) -> None:
    jobs = len(namespace.get("jobs")["items"])
    config = written(somebody.home, OF_ALL, train={"volumes": [{"claim": "nowhere", "path": "/data"}]})
    told = somebody.refused(config)
    assert f"namespace {namespace.name}: there is no claim nowhere; see stacks/cluster/pipelines" in told
    assert len(namespace.get("jobs")["items"]) == jobs
    assert nothing_came_of_it(somebody, services, 1)["steps"] == {}
    told = somebody.run("stack", "doctor", str(config)).stdout
    assert "there is no claim nowhere" in told


def test_an_image_that_cannot_be_pulled_ends_the_run(
    trained: Trained, somebody: Person, services: Team, namespace: Namespace
) -> None:
    told = somebody.refused(trained.config, "--no-cache", ASSAY_IMAGE=f"localhost/nowhere@sha256:{'0' * 64}")
    assert "the orchestrator's pod: its image cannot be pulled: mend ASSAY_IMAGE" in told
    assert nothing_came_of_it(somebody, services, 1)["steps"] == {}
    names = [secret["metadata"]["name"] for secret in namespace.get("secrets")["items"]]
    assert not [name for name in names if name.startswith("zenml-token")]


def test_a_step_that_is_killed_for_memory_is_tried_again_and_told(
    trained: Trained, somebody: Person, services: Team, namespace: Namespace
) -> None:
    config = written(somebody.home, OF_ALL, ingest={"memory": "100Mi", "retries": 1})
    told = somebody.refused(config, "--no-cache")
    assert "step ingest: it was killed for memory: raise settings.orchestrator.memory" in told
    run = nothing_came_of_it(somebody, services, 1)
    pods = [pod for pod in namespace.ended_pods(run["name"]) if "step_name" in pod["metadata"]["labels"]]
    ends = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] for pod in pods]
    assert ends == ["OOMKilled", "OOMKilled"]
    assert run["artifacts"].get("ingest", []) == []


@contextmanager
def counted(kube: Kube, resource: str) -> Iterator[None]:
    """The cluster's first node says that it has one of a resource."""
    node = kube.get("nodes")["items"][0]["metadata"]["name"]
    places = [f"/status/{part}/{resource.replace('/', '~1')}" for part in ("capacity", "allocatable")]
    patch = ["patch", "node", node, "--subresource=status", "--type=json", "--patch"]
    kube(*patch, json.dumps([{"op": "add", "path": place, "value": "1"} for place in places]))
    try:
        yield
    finally:
        kube(*patch, json.dumps([{"op": "remove", "path": place} for place in places]))


def test_a_step_that_did_not_get_its_gpu_says_so(
    trained: Trained, somebody: Person, services: Team, kube: Kube
) -> None:
    """The node counts one that torch does not see; what was done before is not done again."""
    with counted(kube, "example.com/gpu"):
        asked = OF_TRAIN | {"gpu_count": 1, "accelerator": "example.com/gpu", "retries": 0}
        config = written(somebody.home, OF_ALL, train=asked)
        told = somebody.refused(config, "--set", "recipe.seed=2")
    assert "settings.orchestrator.gpu_count asks for 1, and torch sees 0" in told
    run = nothing_came_of_it(somebody, services, 1)
    assert run["steps"] == {**dict.fromkeys(("ingest", "validate", "split"), "cached"), "train": "failed"}


def test_a_pod_that_no_node_takes_is_waited_for_as_long_as_is_said(
    trained: Trained, somebody: Person, services: Team, namespace: Namespace
) -> None:
    config = written(somebody.home, OF_ALL, ingest={"gpu_count": 1, "start_limit": 10})
    told = somebody.refused(config, "--no-cache")
    assert "step ingest: its pod did not start within 10 s (settings.orchestrator.start_limit)" in told
    assert "nvidia.com/gpu" in told
    run = nothing_came_of_it(somebody, services, 1)
    assert [job for job in namespace.of_a_run("jobs", run["name"]) if "step_name" in job["metadata"]["labels"]] == []
