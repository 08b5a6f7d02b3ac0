"""The main job, as a person runs it: the shipped demo config, shrunk, in a checkout of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHRUNK = ["data.source='synthetic://concrete?count=240&seed=3&size=64'", "data.image_size=32", "recipe.epochs=2"]
LENIENT = "policy={floors: {accuracy: 0.2}, champion: {rule: non_inferior, margin: 0.6}}"
"""Little enough for a model that has hardly been trained, and for 35 test images."""
STEPS = ["ingest", "validate", "split", "train", "export", "evaluate", "gate", "report", "register"]

pytestmark = pytest.mark.slow


class Checkout:
    """A copy of the sources in a folder of its own, and the commands that a person types there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "steps", "pipelines", "configs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        outside = {"ASSAY_HOME", "MLFLOW_TRACKING_URI"}
        inherited = {k: v for k, v in os.environ.items() if k not in outside and not k.startswith("ZENML_")}
        self.environment = {**inherited, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}", "HOME": str(folder)}

    def command(self, *arguments: str) -> list[str]:
        start = "from assay.home import use_local_environment as u; u(); from assay.cli import main; main()"
        return [sys.executable, "-c", start, *arguments]

    def assay(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run(self.command(*arguments), code)

    def zenml(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        start = "from assay.home import use_local_environment as u; u(); from zenml.cli.cli import cli; cli()"
        return self.run([sys.executable, "-c", start, *arguments], code)

    def run(self, command: list[str], code: int | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def train(self, *more: str, code: int | None = None) -> dict[str, Any]:
        settings = [word for setting in SHRUNK for word in ("--set", setting)]
        done = self.assay("train", "configs/demo.yaml", *settings, *more, "--json", code=code)
        result: dict[str, Any] = json.loads(done.stdout)
        result["stderr"], result["code"] = done.stderr, done.returncode
        return result


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def first(checkout: Checkout) -> dict[str, Any]:
    """The first run, that the others build on."""
    return checkout.train("--set", LENIENT)


def test_labelled_images_become_a_judged_registered_model(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first["ran"] == STEPS
    assert first["verdict"]["decision"] == "PROMOTE"
    assert first["code"] == 0
    assert (first["model"]["version"], first["model"]["aliases"]) == ("1", ["challenger"])
    assert first["verdict"]["candidate_digest"] == first["model"]["digest"]
    report = Path(first["report"])
    assert report.is_relative_to(checkout.folder / ".assay" / "reports")
    assert first["model"]["digest"] in report.read_text(encoding="utf-8")


def test_only_the_state_folder_is_written(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    entries = {path.name for path in checkout.folder.iterdir()}
    assert entries == {"src", "steps", "pipelines", "configs", "pyproject.toml", ".assay"}


def test_the_screen_shows_no_traceback_and_no_warning_of_a_library(first: dict[str, Any]) -> None:
    for word in ("Traceback", "Warning", "WARNING", "deprecat"):
        assert word not in first["stderr"]


def test_the_registered_model_classifies(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    checkout.assay(
        "data", "sample", "synthetic://concrete?count=9&seed=5&size=64", "--to", ".assay/sample", "--count", "2"
    )
    images = sorted(str(path) for path in (checkout.folder / ".assay/sample").rglob("*.jpg"))
    done = checkout.assay("predict", *images, "--model", "demo@challenger", "--json")
    predictions = json.loads(done.stdout)["predictions"]
    assert [row["image"] for row in predictions] == images
    assert all(row["label"] in {"crack", "intact"} for row in predictions)
    assert json.loads(done.stdout)["digest"] == first["model"]["digest"]


def test_a_registered_model_is_measured_on_new_images(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    source = "synthetic://concrete?count=40&seed=77&size=64"
    metrics = json.loads(checkout.assay("evaluate", "demo@1", "--data", source, "--json").stdout)
    assert metrics["n"] == 40
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]


def test_changing_nothing_runs_nothing_by_zenml_s_own_command_too(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    resolved = checkout.folder / ".assay" / "configs" / "demo.yaml"
    done = checkout.zenml("pipeline", "run", "pipelines.training.training_pipeline", "--config", str(resolved))
    told = done.stdout + done.stderr
    assert "All steps of the pipeline run were cached" in told


def test_an_edit_in_the_library_runs_the_steps_that_call_it(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    with (checkout.folder / "src/assay/gate/rules/floors.py").open("a", encoding="utf-8") as file:
        file.write("\nEDITED = True\n")
    again = checkout.train("--set", LENIENT)
    assert "gate" in again["ran"]
    assert not {"ingest", "validate", "split", "train", "export"} & set(again["ran"])
    assert again["model"]["version"] == "1", "the same bundle with the same verdict is the same version"


def test_a_floor_that_is_not_reached_holds_the_candidate(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    held = checkout.train("--set", "policy.floors.accuracy=0.9999")
    assert held["verdict"]["decision"] in {"HOLD", "INSUFFICIENT_DATA"}
    assert held["code"] in {10, 12}
    assert "challenger" not in held["model"]["aliases"]
    assert "train" not in held["ran"]


def test_without_a_champion_and_without_bootstrap_it_is_refused(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    refused = checkout.train("--no-bootstrap")
    assert (refused["verdict"]["decision"], refused["code"]) == ("REFUSE", 11)


def test_data_that_breaks_an_expectation_stops_with_one_line(checkout: Checkout) -> None:
    done = checkout.assay(
        "train", "configs/demo.yaml", "--set", "data.source='synthetic://concrete?count=30&seed=3&size=64'",
        "--set", "expectations.stop.min_per_class=1000", code=3,
    )  # fmt: skip
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("assay: ")]
    assert len(lines) == 1
    assert "min_per_class" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_champion_is_what_the_next_candidate_is_compared_with(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    checkout.assay("ledger", "promote", "demo@1")
    second = checkout.train("--set", LENIENT, "--set", "recipe.seed=1")
    assert second["verdict"]["champion_version"] == "1"
    assert "non_inferior" in [finding["rule"] for finding in second["verdict"]["findings"]]
    assert second["verdict"]["look"] > 1
    listed = json.loads(checkout.assay("ledger", "list", "demo", "--json").stdout)["entries"]
    assert [entry["body"]["kind"] for entry in listed][-2:] == ["look", "verdict"]
    told = checkout.assay("gate", "explain", "demo@1").stdout
    assert told.startswith("PROMOTE")
    assert checkout.assay("ledger", "verify", "demo").stdout == "the ledger holds\n"


def test_a_candidate_is_judged_again_by_name(checkout: Checkout, first: dict[str, Any]) -> None:
    assert first
    judged = json.loads(checkout.assay("gate", "demo@1", "--champion", "none", "--bootstrap", "--json").stdout)
    assert judged["verdict"]["candidate_digest"] == first["model"]["digest"]
    assert judged["verdict"]["decision"] == "PROMOTE"


def test_an_interrupt_in_training_loses_nothing(checkout: Checkout) -> None:
    settings = ["--set", "recipe.epochs=30", "--set", "recipe.seed=5", "--set", "name=interrupted"]
    shrunk = [word for setting in SHRUNK[:2] for word in ("--set", setting)]
    process = subprocess.Popen(
        checkout.command("train", "configs/demo.yaml", *shrunk, *settings),
        cwd=checkout.folder, env=checkout.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    checkpoints = checkout.folder / ".assay" / "training" / "interrupted"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None and not list(checkpoints.glob("checkpoint*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    resumed = checkout.train(*settings)
    assert "going on after epoch" in resumed["stderr"]
