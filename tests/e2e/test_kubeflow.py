"""The pipeline that Kubeflow is sent, carried out in containers against a team's real services: `make e2e-kubeflow`.

Kubeflow itself is the one part that is not there. Its API takes the compiled pipeline, and KFP's own local runner
starts every container of it (`tests/kfprunner.py`). What came of a run is read from ZenML, MLflow, S3 and the ledger.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp", reason="needs the extra kubeflow")

from cluster import LENT, PLAIN
from kfpendpoint import Endpoint, endpoint
from kfprunner import LABEL
from person import ROOT, Person, person
from team import Team, program, running, team
from wire import Wire

pytestmark = pytest.mark.kubeflow

DEMO = ROOT / "configs" / "demo.yaml"
IMAGE = "localhost/assay-steps-test"
STEPS = ["ingest", "validate", "split", "train", "export", "evaluate", "gate", "report", "register"]
SMALL = {
    "data.source": "synthetic://concrete?count=240&seed=3&size=64",
    "data.image_size": "32",
    "recipe.epochs": "2",
    "recipe.precision": "fp32",
    "recipe.channels_last": "true",
    "policy": "{floors: {accuracy: 0.2}, champion: {rule: non_inferior, margin: 0.6}}",
}
"""Little enough for a model that has hardly been trained, and for 35 test images; nothing is left to a stopwatch."""
BUILD_S = 1800
RUN_S = 1500


@dataclass
class Kubeflow:
    """Its API, with the local runner behind it."""

    api: Endpoint
    folder: Path
    socket: str
    runners: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def carry_out(self, run: str, sent: dict[str, Any]) -> None:
        command = [sys.executable, str(ROOT / "tests" / "kfprunner.py"), run, str(self.folder / "outputs")]
        environment = {
            **os.environ,
            "DOCKER_HOST": self.socket,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
        }
        with self.log(run).open("wb") as log:
            runner = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        assert runner.stdin
        runner.stdin.write(json.dumps(sent["pipeline_spec"]).encode())
        runner.stdin.close()
        self.runners[run], self.api.states[run] = runner, "RUNNING"
        threading.Thread(target=self._await, args=(run,), daemon=True).start()

    def _await(self, run: str) -> None:
        ended = self.runners[run].wait()
        tried = re.findall(r"^(\w+): try \d+ of \d+ ended with", self.said(run), re.MULTILINE)
        self.api.failed[run] = tried[-1] if ended and tried else ""
        self.api.states[run] = "FAILED" if ended else "SUCCEEDED"

    def log(self, run: str) -> Path:
        return self.folder / f"{run}.log"

    def said(self, run: str) -> str:
        return self.log(run).read_text(encoding="utf-8", errors="replace") if self.log(run).exists() else ""

    def containers(self, run: str, step: str) -> list[str]:
        """Those that run now."""
        asked = ["ps", "--quiet", "--filter", f"label={LABEL}={run}", "--filter", f"label=step={step}"]
        return podman(self.folder, *asked).stdout.split()


def podman(folder: Path, *arguments: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    """Podman, with settings under which it runs containers on this machine."""
    environment = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
    return subprocess.run(
        ["podman", *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program("podman")
    made = tmp_path_factory.mktemp("kubeflow")
    (made / "containers.conf").write_text(PLAIN)
    return made


@pytest.fixture(scope="module")
def image(folder: Path) -> str:
    """The steps' image, built by podman from the recipe as it stands, by its digest."""
    if podman(folder, "image", "exists", "docker.io/library/python:3.11-slim").returncode:
        pytest.skip("podman has no docker.io/library/python:3.11-slim: pull it, or see .ci/base-image")
    given = ["--build-arg", f"COMMIT={commit()}", "--network=host", "--pull=never", "--format=docker", f"--tag={IMAGE}"]
    built = podman(folder, "build", *given, *LENT, str(ROOT), timeout=BUILD_S)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-3000:]
    return f"{IMAGE}@{podman(folder, 'image', 'inspect', '--format', '{{.Digest}}', IMAGE).stdout.strip()}"


@cache
def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


@pytest.fixture(scope="module")
def kubeflow(folder: Path) -> Iterator[Kubeflow]:
    socket = folder / "podman.sock"
    environment = {"CONTAINERS_CONF": str(folder / "containers.conf")}

    def listens() -> None:
        if not socket.exists():
            raise OSError("no socket")

    with ExitStack() as stack:
        api = stack.enter_context(endpoint())
        service = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
        stack.enter_context(running(service, folder, "podman's service", listens, environment))
        made = Kubeflow(api, folder, f"unix://{socket}")
        api.carry_out = made.carry_out
        yield made
        for run, runner in made.runners.items():
            runner.kill()
            if left := podman(folder, "ps", "--all", "--quiet", "--filter", f"label={LABEL}={run}").stdout.split():
                podman(folder, "rm", "--force", *left)


@dataclass(frozen=True)
class Wires:
    """What everybody reaches S3 and MLflow by."""

    s3: Wire
    mlflow: Wire

    def cut_for(self, seconds: float) -> None:
        self.s3.cut()
        self.mlflow.cut()
        time.sleep(seconds)
        self.s3.mend()
        self.mlflow.mend()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team(tmp_path_factory.mktemp("team")) as services:
        yield services


@pytest.fixture(scope="module")
def wires(up: Team) -> Iterator[Wires]:
    wires = Wires(Wire(up.s3.endpoint), Wire(up.mlflow))
    yield wires
    wires.s3.close()
    wires.mlflow.close()


@pytest.fixture(scope="module")
def services(up: Team, wires: Wires) -> Team:
    return replace(up, s3=replace(up.s3, endpoint=wires.s3.url), mlflow=wires.mlflow.url)


@pytest.fixture(scope="module")
def somebody(services: Team, kubeflow: Kubeflow, image: str, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Has applied the stack and set it."""
    own = {"ASSAY_IMAGE": image, "ASSAY_REGISTRY": "localhost", "KUBEFLOW_HOST": kubeflow.api.host}
    made = person(tmp_path_factory.mktemp("person"), **services.environment, **own, ASSAY_COMMIT=commit())
    made.good("stack", "apply", "kubeflow")
    made.good("stack", "set", "kubeflow", module="zenml")
    assert "fault" not in made.good("stack", "doctor")
    return made


def small(**changed: str) -> list[str]:
    """How the shipped demo is made small; `__` stands for a dot."""
    settings = SMALL | {name.replace("__", "."): value for name, value in changed.items()}
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


ZENML = """
import json
from zenml.client import Client
runs = Client().list_pipeline_runs(size=50, sort_by="created", hydrate=True)
print(json.dumps([
    {"name": run.name, "status": run.status, "steps": {name: step.status for name, step in run.steps.items()}}
    for run in runs
]))
"""
MLFLOW = """
import json
from mlflow import MlflowClient
versions = MlflowClient().search_model_versions("name = 'demo'")
print(json.dumps({
    int(one.version): {"run": MlflowClient().get_run(one.run_id).info.status, **one.tags} for one in versions
}))
"""


BUNDLE = """
from assay.home import use_local_environment
use_local_environment()
from assay.assessment import bundle_of
print((bundle_of("demo@1").folder / "bundle.json").read_text().replace("\\n", " "))
"""


class Left:
    """What the services hold, asked of each of them."""

    def __init__(self, whoever: Person) -> None:
        self.runs: list[dict[str, Any]] = asked(whoever, ZENML)
        self.versions: dict[str, dict[str, str]] = asked(whoever, MLFLOW)


def asked(whoever: Person, code: str) -> Any:
    """What a program prints last that runs where a person works."""
    return json.loads(whoever.good(module=code).splitlines()[-1])


@pytest.fixture(scope="module")
def first(somebody: Person) -> dict[str, Any]:
    """What the first run of all said, and on standard error what it was doing."""
    done = somebody.run("train", str(DEMO), *small(), "--json")
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return {**json.loads(done.stdout), "screen": done.stderr}


def test_the_command_is_the_same_and_so_is_what_it_says(first: dict[str, Any], somebody: Person) -> None:
    assert first["verdict"]["decision"] == "PROMOTE"
    assert (first["model"]["name"], first["model"]["version"]) == ("demo", "1")
    for step in STEPS:
        assert f"{step:<9} completed" in first["screen"], first["screen"]
    assert "Traceback" not in first["screen"]
    left = Left(somebody)
    (run,) = left.runs
    assert (run["name"], run["status"]) == (first["run"], "completed")
    assert run["steps"] == dict.fromkeys(STEPS, "completed")
    assert set(left.versions) == {"1"}
    assert left.versions["1"]["run"] == "FINISHED"
    somebody.good("data", "sample", SMALL["data.source"], "--to", "some", "--count", "1")
    shown = next((somebody.home / "some").rglob("*.jpg"))
    assert somebody.good("predict", str(shown), "--model", "demo@1").startswith(str(shown))


def test_the_bundle_is_that_of_a_run_on_this_machine(first: dict[str, Any], somebody: Person, tmp_path: Path) -> None:
    """All but what says where it was made: the patch version of Python, and whether the checkout had changes."""
    (tmp_path / "local").mkdir()
    local = person(tmp_path / "local", ASSAY_COMMIT=commit())
    local.good("train", str(DEMO), *small())
    here, there = (asked(whoever, BUNDLE) for whoever in (local, somebody))
    for one in (here, there):
        assert one["meta"]["lineage"]["versions"].pop("python").startswith("3.")
        one["meta"]["lineage"].pop("git_dirty")
        one["files"].pop("card.md")  # tells the lineage
        one.pop("seal")  # of all that is in it
    assert here == there


def test_a_container_that_is_killed_is_started_again(
    first: dict[str, Any], somebody: Person, kubeflow: Kubeflow
) -> None:
    before = Left(somebody)
    with started(somebody, recipe__epochs="3") as train:
        run = next_run(kubeflow)
        container = waited(train, lambda: kubeflow.containers(run, "train"))[0]
        waited(train, lambda: "Initiating heartbeat for step: train" in kubeflow.said(run))
        podman(kubeflow.folder, "kill", container)
        said, screen = train.communicate(timeout=RUN_S)
    assert train.returncode == 0, screen
    assert "train: try 1 of 3 ended with 137" in kubeflow.said(run)
    assert "train: try 2 of 3 ended with 0" in kubeflow.said(run)
    left = Left(somebody)
    assert left.runs[-1]["status"] == "completed"
    assert left.runs[-1]["steps"] == dict.fromkeys(STEPS, "completed") | {
        "ingest": "cached",
        "validate": "cached",
        "split": "cached",
    }
    assert set(left.versions) == {*before.versions, json.loads(said)["model"]["version"]}


def test_s3_and_mlflow_are_gone_for_a_minute(
    first: dict[str, Any], somebody: Person, kubeflow: Kubeflow, wires: Wires
) -> None:
    """Whatever step is at work then: nobody has to start anything again."""
    before = Left(somebody)
    with started(somebody, recipe__learning_rate="0.003") as train:
        run = next_run(kubeflow)
        waited(train, lambda: "Initiating heartbeat for step: export" in kubeflow.said(run))
        wires.cut_for(60)
        said, screen = train.communicate(timeout=RUN_S)
    assert train.returncode == 0, screen
    assert kubeflow.said(run).count("ended with 0") == len(STEPS) - 3
    left = Left(somebody)
    assert left.runs[-1]["status"] == "completed"
    assert set(left.versions) == {*before.versions, json.loads(said)["model"]["version"]}
    assert json.loads(said)["model"]["digest"] != first["model"]["digest"]


def test_a_run_that_is_started_twice_makes_one_version(
    first: dict[str, Any], somebody: Person, kubeflow: Kubeflow
) -> None:
    before = Left(somebody)
    kubeflow.carry_out("again", kubeflow.api.bodies("/runs")[0])
    assert kubeflow.runners["again"].wait(RUN_S) == 0, kubeflow.said("again")
    left = Left(somebody)
    assert len(left.runs) == len(before.runs) + 1
    assert left.runs[-1]["status"] == "completed"
    assert left.versions == before.versions


def test_a_step_that_is_killed_for_its_memory(
    first: dict[str, Any], somebody: Person, kubeflow: Kubeflow, tmp_path: Path
) -> None:
    before = Left(somebody)
    config = tmp_path / "demo.yaml"
    document = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    document["steps"]["ingest"] = {"settings": {"orchestrator": {"memory": "150Mi"}}}
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    told = somebody.refused(config, *small(data__source="synthetic://concrete?count=60&seed=4&size=64"))
    assert "step ingest" in told
    assert "settings.orchestrator.memory" in told
    left = Left(somebody)
    assert left.runs[-1]["status"] == "failed"
    assert left.versions == before.versions


def test_the_doctor_names_what_is_wrong(somebody: Person) -> None:
    """With real services, each of which refuses in its own way."""
    somebody.good("stack", "apply", "kubeflow", ASSAY_BUCKET="nowhere")
    try:
        done = somebody.run("stack", "doctor", MLFLOW_TRACKING_PASSWORD="wrong", ASSAY_IMAGE="localhost/assay:latest")
    finally:
        somebody.good("stack", "apply", "kubeflow")
    told = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert (done.returncode, done.stderr) == (1, "")
    assert "make the bucket" in told["artifacts"]
    assert "mend MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in told["mlflow"]
    assert "@sha256:" in told["image"]
    assert {name for name, line in told.items() if line.startswith("good")} == {"zenml", "stack", "kubeflow"}


def test_an_account_that_zenml_does_not_know(somebody: Person, tmp_path: Path) -> None:
    stranger = person(tmp_path, **{**somebody.environment, "HOME": str(tmp_path), "ASSAY_HOME": str(tmp_path / "a")})
    done = stranger.run("stack", "doctor", ZENML_STORE_PASSWORD="wrong")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("fault    zenml")
    assert "zenml login" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def next_run(kubeflow: Kubeflow) -> str:
    """The one that is about to begin."""
    return f"run-{len(kubeflow.api.states) + 1}"


@contextmanager
def started(whoever: Person, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """A training that goes on meanwhile."""
    train = subprocess.Popen(
        whoever.command("train", str(DEMO), *small(**settings), "--json"),
        cwd=whoever.home, env=dict(whoever.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield train
    finally:
        train.kill()
        train.communicate()


def waited(process: "subprocess.Popen[str]", look: Callable[[], Any]) -> Any:
    """What `look` gives, as soon as it gives something."""
    end = time.monotonic() + RUN_S
    while not (found := look()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.5)
    return found
