"""From a bundle to a verdict, a champion and a ledger, by the command line: with a real registry."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay import crown, registry
from assay.assessment import assess, verdict_of
from assay.cli import cli
from assay.config import load_use_case
from assay.errors import AssayError, BundleError, DataError, LedgerError
from assay.gate import Decision
from assay.gate.ledger import Ledger

from toybundle import colour_folder, toy_bundle

POLICY = {"floors": {"accuracy": 0.8}, "champion": {"rule": "non_inferior", "margin": 0.2}}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def embedded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One registry for all tests, each of which has a use case of its own: making MLflow's tables takes seconds."""
    monkeypatch.setenv("ASSAY_HOME", str(state))
    for name in ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """120 images that the toy bundle tells apart."""
    return colour_folder(tmp_path / "images")


@pytest.fixture
def config(tmp_path: Path, images: Path, request: pytest.FixtureRequest) -> Path:
    """A use case of the test's own."""
    name = "c" + "".join(c for c in request.node.name if c.isalnum()).lower()[:60]
    use_case = {
        "name": name,
        "data": {"source": str(images), "image_size": 16},
        "recipe": {"backbone": "none"},
        "policy": POLICY,
    }
    path = tmp_path / "use_case.yaml"
    path.write_text(yaml.safe_dump({"parameters": {"use_case": use_case}}))
    return path


def bundle(folder: Path, name: str, card: bytes = b"") -> Path:
    return toy_bundle(folder, size=16, name=name, card=card).folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | None, str]:
    code = cli.main(list(words), standalone_mode=False)
    return code, capsys.readouterr().out


def register(folder: Path, name: str) -> registry.Version:
    from assay.models.bundle import Bundle

    return registry.register(Bundle.load(folder), name, registry.open_run(name, "run"), {"verdict": "PROMOTE"})


def test_a_first_champion_and_the_one_that_follows(
    tmp_path: Path, images: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = load_use_case(config).name
    first, second = (register(bundle(tmp_path / str(n), name, b"%d" % n), name) for n in range(2))
    options = ["--policy", str(config), "--data", str(images), "--json"]

    code, out = run(capsys, "gate", str(first), *options, "--bootstrap")
    assert (code, json.loads(out)["verdict"]["decision"]) == (0, "PROMOTE")
    code, out = run(capsys, "ledger", "promote", str(first), "--json")
    assert json.loads(out)["champion"]["version"] == first.version

    code, out = run(capsys, "gate", str(second), *options)
    verdict = json.loads(out)["verdict"]
    assert (code, verdict["decision"], verdict["champion_version"], verdict["look"]) == (0, "PROMOTE", "1", 2)
    run(capsys, "ledger", "promote", str(second))
    assert registry.find(f"{name}@champion").version == second.version

    kinds = [entry.kind for entry in Ledger.open(name).entries()]
    assert kinds == ["look", "verdict", "promotion", "look", "verdict", "promotion"]
    code, out = run(capsys, "ledger", "verify", name)
    assert (code, out.strip()) == (0, "the ledger holds")


def test_nobody_is_crowned_without_a_verdict(tmp_path: Path, config: Path) -> None:
    name = load_use_case(config).name
    version = register(bundle(tmp_path / "b", name), name)
    with pytest.raises(LedgerError, match="no verdict"):
        crown.crown(version)
    assert registry.aliases(name) == {}


def test_an_alias_that_somebody_moved_is_found_and_put_back_only_when_told(
    tmp_path: Path, images: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_case = load_use_case(config)
    first, second = (register(bundle(tmp_path / str(n), use_case.name, b"%d" % n), use_case.name) for n in range(2))
    assess(str(first), use_case, source=str(images), bootstrap=True)
    crown.crown(first)
    registry.set_alias(second, "champion")

    code, out = run(capsys, "ledger", "verify", use_case.name)
    assert code == AssayError.exit_code
    assert "points at version 2" in out
    assert registry.find(f"{use_case.name}@champion").version == second.version
    code, _ = run(capsys, "ledger", "verify", use_case.name, "--repair")
    assert code == 0
    assert registry.find(f"{use_case.name}@champion").version == first.version


def test_the_same_question_costs_one_look(tmp_path: Path, images: Path, config: Path) -> None:
    use_case = load_use_case(config)
    folder = bundle(tmp_path / "b", use_case.name)
    first, again = (assess(str(folder), use_case, source=str(images), bootstrap=True) for _ in range(2))
    assert first.verdict.canonical == again.verdict.canonical
    assert len(Ledger.open(use_case.name).entries()) == 2


def test_saved_evidence_is_judged_by_another_policy_at_the_price_of_a_look(
    tmp_path: Path, images: Path, config: Path
) -> None:
    use_case = load_use_case(config)
    first = assess(str(bundle(tmp_path / "b", use_case.name)), use_case, source=str(images), bootstrap=True)
    stricter = load_use_case(config, {"policy.floors.accuracy": 0.9999})
    again = assess(str(first.evidence.folder), stricter, bootstrap=True)
    assert (again.verdict.decision, again.verdict.look) == (Decision.INSUFFICIENT_DATA, 2)
    assert again.verdict.evidence_digest == first.verdict.evidence_digest


def test_a_verdict_is_explained_from_its_file(
    tmp_path: Path, images: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_case = load_use_case(config)
    found = assess(str(bundle(tmp_path / "b", use_case.name)), use_case, source=str(images), bootstrap=True)
    path = found.evidence.folder / "verdict.json"
    assert verdict_of(str(path)) == found.verdict
    _, out = run(capsys, "gate", "explain", str(path))
    assert "floor.accuracy: accuracy 100.0%" in out
    assert "look number 1" in out
    path.write_text("{}")
    with pytest.raises(DataError, match=r"verdict\.json: no verdict"):
        verdict_of(str(path))


def test_a_candidate_of_another_split_is_not_judged_on_this_one(tmp_path: Path, config: Path) -> None:
    use_case = load_use_case(config)
    with pytest.raises(BundleError, match="another split"):
        assess(str(bundle(tmp_path / "b", use_case.name)), use_case, bootstrap=True)
    assert Ledger.open(use_case.name).entries() == []


def test_labels_that_the_model_does_not_know_are_told(tmp_path: Path, images: Path, config: Path) -> None:
    use_case = load_use_case(config)
    (images / "red").rename(images / "pink")
    with pytest.raises(DataError, match="'pink'"):
        assess(str(bundle(tmp_path / "b", use_case.name)), use_case, source=str(images), bootstrap=True)


def test_evaluate_judges_on_new_images_when_a_policy_is_given(
    tmp_path: Path, images: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = load_use_case(config).name
    version = register(bundle(tmp_path / "b", name), name)
    measured: dict[str, Any] = json.loads(run(capsys, "evaluate", str(version), "--data", str(images), "--json")[1])
    assert measured["n"] == 120
    code, out = run(capsys, "evaluate", str(version), "--data", str(images), "--policy", str(config), "--json")
    assert (code, json.loads(out)["verdict"]["decision"]) == (11, "REFUSE")  # no champion, and nobody asked for a first


def test_a_verdict_as_markdown(tmp_path: Path, images: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = load_use_case(config).name
    page = tmp_path / "verdict.md"
    words = ["gate", str(bundle(tmp_path / "b", name)), "--policy", str(config), "--data", str(images)]
    code, _ = run(capsys, *words, "--bootstrap", "--markdown", str(page))
    assert code == 0
    assert page.read_text().startswith(f"### PROMOTE: {name}")
