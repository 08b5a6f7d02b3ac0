"""The Kubeflow stack against a real ZenML server and a Kubeflow API that keeps what it is sent: field by field."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kfpendpoint import Endpoint, endpoint
from team import PASSWORD, USER, zenml_server

pytest.importorskip("kfp", reason="needs the extra kubeflow")
pytest.importorskip("s3fs", reason="needs s3fs, which ZenML's S3 artifact store is made of")

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CONFIGS = ("demo", "surface_crack", "fashion_mnist")
STEPS = {"ingest", "validate", "split", "train", "export", "evaluate", "gate", "report", "register"}
IMAGE = "registry.example.com/assay/steps@sha256:" + "a" * 64
SECRETS = {"AWS_SECRET_ACCESS_KEY": "s3-secret-value", "MLFLOW_TRACKING_PASSWORD": "mlflow-password-value"}


@pytest.fixture(scope="module")
def zenml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with zenml_server(tmp_path_factory.mktemp("zenml")) as url:
        yield url


class Done:
    """What the clients' process said, what it sent, and what it left."""

    def __init__(self, said: dict[str, Any], kubeflow: Endpoint, home: Path, screen: str) -> None:
        self.said, self.kubeflow, self.home, self.screen = said, kubeflow, home, screen
        self.runs = dict(zip(CONFIGS, kubeflow.bodies("/runs"), strict=False))

    def container(self, config: str, step: str) -> dict[str, Any]:
        spec = self.spec(config)
        return dict(spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"])

    def spec(self, config: str) -> dict[str, Any]:
        sent = self.runs[config]["pipeline_spec"]
        return dict(sent.get("pipeline_spec", sent))

    def task(self, config: str, step: str) -> dict[str, Any]:
        return dict(self.spec(config)["root"]["dag"]["tasks"][step])

    def pod(self, config: str, step: str) -> dict[str, Any]:
        platforms = self.runs[config]["pipeline_spec"].get("platform_spec", {"platforms": {}})["platforms"]
        executors = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        return dict(executors.get(f"exec-{step}", {}))


def asked(config: str, step: str) -> dict[str, Any]:
    """What the shipped YAML asks for a step."""
    document = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text(encoding="utf-8"))
    of_all = document.get("settings", {}).get("orchestrator", {})
    of_step = document.get("steps", {}).get(step, {}).get("settings", {}).get("orchestrator", {})
    return {**of_all, **of_step}


@pytest.fixture(scope="module")
def done(zenml: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("client")
    with endpoint() as kubeflow:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ZENML_", "AWS_"))}
        environment |= SECRETS | {
            "ASSAY_HOME": str(folder / ".assay"),
            "ASSAY_IMAGE": IMAGE,
            "ASSAY_BUCKET": "assay",
            "ASSAY_S3_ENDPOINT": "http://127.0.0.1:9",
            "ASSAY_LEDGER": str(folder / "ledger"),
            "ASSAY_REGISTRY": "registry.example.com/assay",
            "AWS_ACCESS_KEY_ID": "key",
            "HOME": str(folder),
            "KUBECONFIG": kubeconfig(folder, kubeflow.port),
            "KUBEFLOW_HOST": kubeflow.host,
            "KUBERNETES_CONTEXT": "team",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "MLFLOW_TRACKING_USERNAME": "user",
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "ZENML_DISABLE_PIPELINE_LOGS_STORAGE": "true",
            "ZENML_LOGGING_VERBOSITY": "CRITICAL",
            "ZENML_STORE_URL": zenml,
            "ZENML_STORE_USERNAME": USER,
            "ZENML_STORE_PASSWORD": PASSWORD,
        }
        ran = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "stackrun.py"), kubeflow.host, *configs(folder)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-5000:]
        yield Done(json.loads(ran.stdout.splitlines()[-1]), kubeflow, folder / ".assay", ran.stderr)


def kubeconfig(folder: Path, port: int) -> str:
    """A context `team` that leads to the endpoint."""
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "team",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "team", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def configs(folder: Path) -> list[str]:
    """The shipped configs, with synthetic images: nothing else is at hand to take a fingerprint of."""
    made = []
    for name in CONFIGS:
        document = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
        document["parameters"]["use_case"]["data"]["source"] = "synthetic://concrete?count=60&seed=1"
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        made.append(str(path))
    return made


def test_a_stack_is_applied_once_and_says_what_changed(done: Done) -> None:
    said = done.said["applied"]
    assert said["first"] == said["checked"], "what a check says is what is done"
    assert {"secret assay-s3: new", "flavor assay_kubeflow: new", "stack kubeflow: new"} <= set(said["first"])
    assert said["second"] == []
    assert "flavor assay_kubernetes: new" in said["kubernetes"]
    assert not [change for change in said["kubernetes"] if change.startswith("secret")]
    assert said["moved"] == [
        "secret assay-mlflow: MLFLOW_TRACKING_PASSWORD",
        "component artifact_store kubeflow: client_kwargs",
        "stack kubeflow: environment AWS_REGION",
    ]
    assert said["moved twice"] == []
    assert [one["applied"] for one in said["known before"]] == [False, False, False]
    assert {one["name"]: one["applied"] for one in said["known"]} == {
        "kubeflow": True, "kubernetes": True, "local": False,
    }  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_each_step_runs_in_the_one_image_and_gets_what_its_config_asks_for(done: Done, config: str) -> None:
    assert set(done.spec(config)["root"]["dag"]["tasks"]) == STEPS
    for step in STEPS:
        container, wanted = done.container(config, step), asked(config, step)
        assert container["image"] == IMAGE
        assert container["command"] == ["python", "-m", "zenml.entrypoints.entrypoint"]
        assert container["args"][-2:] == ["--step_name", step]
        assert done.said["runs"][config]["snapshot"] in container["args"]
        resources = container.get("resources", {})
        assert float(resources.get("resourceCpuLimit", 0)) == float(wanted.get("cpu", 0))
        assert resources.get("resourceCpuRequest") == resources.get("resourceCpuLimit")
        assert resources.get("resourceMemoryLimit") == resources.get("resourceMemoryRequest") == wanted.get("memory")
        accelerator = resources.get("accelerator", {})
        assert int(accelerator.get("resourceCount", 0)) == wanted.get("gpu_count", 0)
        assert accelerator.get("resourceType", "nvidia.com/gpu") == "nvidia.com/gpu"


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_of_the_pod_reaches_the_pod_of_its_step_and_of_no_other(done: Done, config: str) -> None:
    for step in STEPS:
        pod, wanted = done.pod(config, step), asked(config, step)
        shm = [{"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": wanted.get("shm")}]
        assert pod.get("emptyDirMounts", []) == (shm if "shm" in wanted else [])
        claims = [(m["pvcNameParameter"]["runtimeValue"]["constant"], m["mountPath"]) for m in pod.get("pvcMount", [])]
        assert claims == [(volume["claim"], volume["path"]) for volume in wanted.get("volumes", [])]
        assert pod.get("tolerations", []) == wanted.get("tolerations", [])
        assert int(pod.get("activeDeadlineSeconds", 0)) == wanted.get("time_limit", 0)


def test_the_flagship_trains_on_a_gpu_with_shared_memory(done: Done) -> None:
    assert done.container("surface_crack", "train")["resources"]["accelerator"]["resourceCount"] == "1"
    assert done.pod("surface_crack", "train")["emptyDirMounts"][0]["medium"] == "Memory"
    assert "accelerator" not in done.container("surface_crack", "evaluate")["resources"]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_step_is_tried_again_by_the_cluster_as_often_as_the_server_allows(done: Done, config: str) -> None:
    for step in STEPS:
        retries = asked(config, step).get("retries", 0)
        assert done.said["runs"][config]["retries"][step] == retries
        policy = done.task(config, step).get("retryPolicy", {})
        assert policy.get("maxRetryCount", 0) == retries
        if retries:
            assert (policy["backoffDuration"], policy["backoffFactor"]) == ("30s", 2.0)


@pytest.mark.parametrize("config", CONFIGS)
def test_order_is_that_of_the_pipeline_and_nothing_is_cached_by_kubeflow(done: Done, config: str) -> None:
    for step in STEPS:
        task = done.task(config, step)
        assert set(task.get("dependentTasks", [])) == set(done.said["runs"][config]["upstream"][step])
        assert not task["cachingOptions"].get("enableCache", False)
    assert set(done.task(config, "report")["dependentTasks"]) >= {"gate", "evaluate"}


def test_no_code_is_uploaded(done: Done) -> None:
    for config in CONFIGS:
        assert done.said["runs"][config]["code_path"] is None


def test_the_environment_says_where_things_are_and_holds_no_secret_but_the_run_s_token(done: Done) -> None:
    container = done.container("demo", "train")
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
    assert variables["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert variables["ASSAY_LEDGER"].endswith("/ledger")
    assert variables["KFP_RUN_ID"] == "{{$.pipeline_job_name}}"
    assert variables["ZENML_STORE_API_TOKEN"].startswith("ey")
    sent = json.dumps(done.kubeflow.calls)
    for secret in (*SECRETS.values(), "another-password", PASSWORD):
        assert secret not in sent


def test_what_is_left_on_the_disk_holds_no_token_and_is_nobody_else_s(done: Done) -> None:
    token = {v["name"]: v["value"] for v in done.container("demo", "train")["env"]}["ZENML_STORE_API_TOKEN"]
    left = list((done.home / "zenml" / "kubeflow").rglob("*.yaml"))
    assert len(left) >= len(CONFIGS)
    for file in left:
        assert file.stat().st_mode & 0o077 == 0
        assert token not in file.read_text(encoding="utf-8")
        assert "eyJ" not in file.read_text(encoding="utf-8")
        assert "(redacted)" in file.read_text(encoding="utf-8")
    assert token not in done.screen


def test_kubeflow_is_asked_for_what_a_run_takes(done: Done) -> None:
    first = [(method, path) for method, path, _ in done.kubeflow.calls[:5]]
    assert first[0] == ("GET", "/healthz")
    assert first[-2:] == [("POST", "/runs"), ("GET", "/runs/run-1")]
    assert ("POST", "/experiments") in first
    for body in done.runs.values():
        assert body["service_account"] == "pipeline-runner"
        assert body["experiment_id"] == "experiment-1"


def test_a_schedule_is_one_and_neither_overlaps_nor_catches_up(done: Done) -> None:
    said, sent = done.said["scheduled"], done.kubeflow.bodies("/recurringruns")
    assert len(said["first"]) == 1
    assert said["second"] == []
    assert len(said["listed"]) == len(said["listed again"]) == 1
    assert [change.rpartition(" ")[2] for change in said["moved"]] == ["new", "removed"]
    assert len(said["removed"]) == 1
    assert said["left"] == []
    assert [body["trigger"]["cron_schedule"]["cron"] for body in sent] == ["0 0 3 * * 1", "0 30 4 * * *"]
    for body in sent:
        assert (body["max_concurrency"], body["no_catchup"]) == (1, True)
        assert body["service_account"] == "pipeline-runner"
    assert done.kubeflow.recurring == {}, "removed in Kubeflow too"
    assert said["wrong"].startswith("StackError: --cron 'every day': five fields")


def test_on_kubernetes_the_orchestrator_s_job_is_started_and_the_token_is_a_secret(done: Done) -> None:
    job = done.kubeflow.bodies("/apis/batch/v1/namespaces/assay-pipelines/jobs")[0]
    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "assay-orchestrator"
    container = pod["containers"][0]
    assert container["image"] == IMAGE
    variables = {variable["name"]: variable for variable in container["env"]}
    assert "secretKeyRef" in variables["ZENML_STORE_API_TOKEN"]["valueFrom"]
    assert variables["ASSAY_LEDGER"]["value"].endswith("/ledger"), "by which it finds out what need not run"
    assert container["command"] == ["python", "-m", "stacks.kubernetes_pod"]
    assert "eyJ" not in json.dumps(job)
    secret = done.kubeflow.bodies("/api/v1/namespaces/assay-pipelines/secrets")[0]
    assert secret["metadata"]["name"] == variables["ZENML_STORE_API_TOKEN"]["valueFrom"]["secretKeyRef"]["name"]


def test_on_kubernetes_the_same_config_asks_for_the_same(done: Done) -> None:
    said = done.said["kubernetes"]
    assert said["retries"] == done.said["runs"]["surface_crack"]["retries"]
    for step in STEPS:
        pod, wanted = said["pods"][step], asked("surface_crack", step)
        limits = pod["resources"]["limits"]
        assert (limits["cpu"], limits["memory"]) == (str(wanted["cpu"]), wanted["memory"])
        assert int(limits.get("nvidia.com/gpu", 0)) == wanted.get("gpu_count", 0)
        assert ("shm" in wanted) == any(volume["name"] == "shm" for volume in pod["volumes"])
        assert pod["tolerations"] == wanted.get("tolerations", [])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("failed", "StackError: the run run-1 ended as FAILED in Kubeflow"),
        ("refused", "did not take the pipeline: 403"),
        ("gone", "/pipeline: does not answer"),
        ("another ledger", "and /elsewhere here; export ASSAY_LEDGER="),
        ("no image", "StackError: ASSAY_IMAGE is not set"),
    ],
)
def test_a_fault_is_one_line(done: Done, fault: str, told: str) -> None:
    said = done.said["faults"][fault]
    assert told in said
    assert "\n" not in said


def test_the_doctor_finds_what_is_broken_and_says_what_to_do(done: Done) -> None:
    healthy = {line.split()[1]: line for line in done.said["faults"]["healthy"]}
    assert {name: healthy[name].split()[0] for name in ("zenml", "stack", "image", "kubeflow")} == dict.fromkeys(
        ("zenml", "stack", "image", "kubeflow"), "good"
    )
    broken = {line.split()[1]: line for line in done.said["faults"]["doctor"]}
    for name in ("artifacts", "mlflow", "kubeflow", "image"):
        assert broken[name].startswith("fault"), broken[name]
    assert "mend KUBEFLOW_HOST" in broken["kubeflow"]
    assert not [line for line in broken.values() if "secret-value" in line or "another-password" in line]
