"""What the workflows call, with a real registry and a real service: pages, news, and whether there is something new."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from workflows.hosted import GitHub, News, playing

from assay import registry
from assay.config import UseCase
from assay.data.scan import scan_source
from assay.data.splits import split
from assay.errors import AssayError
from assay.gate.ledger import Ledger
from assay.github import running
from assay.github.collect import collect, image_sizes
from assay.github.due import due
from assay.github.releasing import answers_rightly, check_request
from assay.github.report import read_report, write
from assay.github_commands import github
from assay.models.bundle import Bundle, Lineage
from assay.notify import URL
from assay.registry import Version
from assay.service import address, free_port
from assay.service import running as service_running
from assay.summary import Submitted, training_json

from toybundle import colour_folder, toy_bundle

MODEL = "colours"

pytestmark = pytest.mark.long


class Trained:
    """A use case, and versions of it as if they had been trained on its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        colour_folder(folder / "images")
        data = {"source": str(folder / "images"), "image_size": 16}
        self.use_case = UseCase.model_validate({"name": MODEL, "data": data, "recipe": {"backbone": "none"}})

    def version(self, card: bytes = b"first", verdict: str = "PROMOTE") -> tuple[Version, Bundle]:
        dataset = split(scan_source(self.use_case.data), self.use_case.split)
        lineage = Lineage(
            git_commit="a" * 40, git_dirty=False, data_digest=dataset.digest, split_digest=dataset.split_digest,
            config_digest="c", versions={},
        )  # fmt: skip
        bundle = toy_bundle(self.folder / card.decode(), size=16, name=MODEL, card=card, lineage=lineage)
        return registry.register(bundle, MODEL, registry.open_run(MODEL, "run"), {"verdict": verdict}), bundle

    def more_data(self) -> None:
        (self.folder / "images" / "red" / "0.png").unlink()


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    for name in ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    return Trained(tmp_path)


def test_the_same_data_is_not_trained_on_twice_whatever_the_verdict(trained: Trained) -> None:
    assert due(trained.use_case, None, 0.2).train
    trained.version(verdict="HOLD")
    answer = due(trained.use_case, None, 0.2)
    assert not answer.train
    assert "colours@1 was trained on this data" in answer.why
    assert "which the gate said HOLD to" in answer.why
    trained.more_data()
    assert due(trained.use_case, None, 0.2).train
    assert Ledger.open(MODEL).champion() is None


def test_a_drift_counts_above_its_bound(trained: Trained) -> None:
    trained.version()
    for drift, expected in ((0.0, False), (0.2, False), (0.21, True)):
        answer = due(trained.use_case, drift, 0.2)
        assert answer.train is expected
        assert f"{drift:g}" in answer.why


def test_a_registry_that_names_another_bundle_is_refused(trained: Trained) -> None:
    version, bundle = trained.version()
    check_request(str(version), bundle.digest, "")
    with pytest.raises(AssayError, match="nothing was touched"):
        check_request(str(version), "0" * 64, "")


def test_a_service_is_held_against_its_bundle(trained: Trained) -> None:
    _, first = trained.version()
    _, second = trained.version(b"second")
    port = free_port()
    with service_running(first, "1", port):
        assert "golden images" in answers_rightly(address(port), first)
        with pytest.raises(AssayError, match="was answered by bundle"):
            answers_rightly(address(port), second)


CHATTY = """
import os, sys
sys.stderr.write('x' * 300_000 + '\\nassay: no\\nassay: images gone\\n')
print('y' * 300_000, os.environ.get('ASSAY_WEBHOOK_URL'), os.environ['ASSAY_ACTOR'])
sys.exit(3)
"""
"""More than a pipe holds, on both sides."""


def script(folder: Path, text: str) -> list[str]:
    path = folder / "command.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def test_a_command_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, "http://127.0.0.1:9")
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    command = script(tmp_path, CHATTY)
    code, printed, error = running._run(command, "why\nnot")
    assert (code, error) == (3, "images gone")
    assert printed.decode().split() == ["y" * 300_000, "None", "octocat:", "why", "not"]


OUTCOME: dict[str, Any] = {
    "release": {"model": MODEL, "version": "2", "environment": "production", "bundle_digest": "b" * 64, "image": ""},
    "replaced": "colours@1",
    "entry": 7,
    "seen": "40 probes, | <b>",
    "notes": ["assay ledger verify"],
}


def test_a_release_on_the_page() -> None:
    page, values, version, _ = running.released(OUTCOME)
    assert page.startswith("### production serves <code>colours&#64;2</code>")
    assert "| instead of | <code>colours&#64;1</code> |" in page
    assert "<b>" not in page
    assert "| to do | <code>assay ledger verify</code> |" in page
    assert (values, version) == ({"model": "colours@2", "digest": "b" * 64}, "2")


def test_a_command_that_fails_is_on_the_page_and_in_the_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv(URL, "nonsense")
    code = running.run("promote", lambda: ["--to=staging", "--", "colours@1"], MODEL, "staging", "why")
    assert code == 2
    page = (tmp_path / "summary").read_text()
    assert page.startswith("### promote failed")
    assert "Exit code 2" in page
    assert "nobody was told" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["train", "nowhere"],
        ["promote", "colours@latest", "--to=staging"],
        ["rollback", MODEL, "--environment=staging", "--to=best"],
        ["changed", "nowhere"],
        ["changed", "demo", "--drift=much"],
        ["rollback", MODEL, "--environment=staging"],
    ],
)
def test_what_is_refused_is_told_once_and_said_to_be(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one by the command itself, the others before there is one."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with playing(News()) as news:
        monkeypatch.setenv(URL, news.url)
        done = CliRunner().invoke(github, words, standalone_mode=False)
        assert done.exception or done.return_value
    assert [row[0] for row in news.all()] == ["failure"]
    assert " failed\n" in (tmp_path / "summary").read_text()
    assert (tmp_path / "output").read_text() == "told=true\n"


def test_a_training_that_nobody_waits_for_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setattr(running, "_run", lambda *_: (0, json.dumps(training_json(Submitted("training-1"))), ""))
    with playing(News()) as news:
        monkeypatch.setenv(URL, news.url)
        assert running.run("train", list, MODEL) == 0
    assert "goes on" in (tmp_path / "summary").read_text()
    assert "<code>training-1</code>" in (tmp_path / "summary").read_text()
    assert "goes on" in capsys.readouterr().err
    assert news.all() == []
    assert not (tmp_path / "output").exists()


SLOW = """
import sys, time
from pathlib import Path
token, begun = Path(sys.argv[1]), time.monotonic()
while token.read_text() == "old":
    assert time.monotonic() < begun + 60
    time.sleep(0.01)
"""


def test_what_runs_long_has_an_identity_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "aws"
    path.write_text("old")
    with playing(GitHub()) as server:
        server.answers["/identity"] = {"value": "new"}
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{server.url}/identity?api-version=2")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-1")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
        code, _, _ = running._run([*script(tmp_path, SLOW), str(path)], "")
        assert (code, path.read_text()) == (0, "new")
        path.write_text("old")
        assert CliRunner().invoke(github, ["changed", "demo", "--force=true"]).exit_code == 0
        assert path.read_text() == "new"


def test_an_image_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "docker"
    engine.write_text('#!/bin/sh\n[ "$4" = there ] && echo \'[{"Size": 5}]\'\n')
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert image_sizes({"serving": "there"}, "docker").images[0].size == 5
    with pytest.raises(AssayError, match="no such image"):
        image_sizes({"serving": "--help"}, "docker")


def test_what_is_collected_is_what_is_read(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from assay.assessment import assess

    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    document = {"parameters": {"use_case": trained.use_case.model_dump(mode="json")}}
    Path(f"configs/{MODEL}.yaml").write_text(yaml.safe_dump(document))
    version, _ = trained.version()
    verdict = assess(str(version), trained.use_case, bootstrap=True).verdict
    registry.open_run(MODEL, "run").log_text(verdict.model_dump_json(), "verdict.json")
    report = collect(MODEL)
    write(report, tmp_path / "report", "report.json")
    assert read_report(tmp_path / "report") == report
    assert report.decision == verdict.decision
    assert report.commit == "a" * 40
    assert report.confusion is not None
    assert sum(map(sum, report.confusion)) == sum(c.get("validation", 0) for c in report.data.counts.values())
    told = json.dumps(report.model_dump(mode="json"))
    for finding in verdict.findings:
        assert finding.sentence not in told  # the numbers of the test split
