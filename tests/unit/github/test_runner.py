"""Outputs, pages and what is asked for: nothing that somebody types into a form gets further than its own place."""

import os
from pathlib import Path

import pytest

from assay.errors import AssayError, ConfigError
from assay.github import runner
from assay.github.due import number
from assay.github.releasing import check_request, check_way_back
from assay.github.running import MAX_ACTOR, actor, training_words

HOSTILE = [
    "colours@1; touch INJECTED",
    "$(touch INJECTED)",
    "`touch INJECTED`",
    "colours@1\ntouch INJECTED",
    'colours@1" && touch INJECTED && "',
    "--help",
    "--to=staging",
    "colours@challenger",
    "colours@-1",
    "colours@0",
    "colours@1e3",
    "colours@\u0661",
    "colours@1 ",
    "../../etc/passwd@1",
    "\u202ecolours@1",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_model_is_a_name_and_a_number(text: str) -> None:
    with pytest.raises(AssayError, match="give name@version"):
        check_request(text, "", "")


@pytest.mark.parametrize("text", [*HOSTILE[:-1], "name:latest", "name@sha256:12", f"NAME@sha256:{'1' * 64}",
                                  f"a@sha256:{'1' * 64}\n", f"-a@sha256:{'1' * 64}"])  # fmt: skip
def test_an_image_is_named_by_its_digest(text: str) -> None:
    with pytest.raises(AssayError, match="give name@sha256"):
        check_request("colours@1", "", text)


@pytest.mark.parametrize("text", [*HOSTILE[:-1], "1" * 63, "G" * 64, "sha256:" + "1" * 64])
def test_a_digest_is_64_digits(text: str) -> None:
    with pytest.raises(AssayError, match="give the 64 digits"):
        check_request("colours@1", text, "")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_way_back_is_a_number(text: str) -> None:
    with pytest.raises(AssayError, match="give a number"):
        check_way_back("colours", text)
    with pytest.raises(AssayError, match="give a name"):
        check_way_back(text, "last-served")


def test_what_is_right_is_taken() -> None:
    check_request("colours@1", "", f"ghcr.io/me/assay/serving@sha256:{'0' * 64}")
    check_way_back("colours", "last-served")
    check_way_back("colours", "12")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1; rm", "0x1", "1_000j", "--help"])
def test_a_drift_is_a_number(text: str) -> None:
    with pytest.raises(AssayError, match="give a number from 0"):
        number(text)


def test_drifts() -> None:
    assert [number(text) for text in ("", " ", "0", "0.25", "1e-3")] == [None, None, 0.0, 0.25, 0.001]


@pytest.mark.parametrize("text", [*HOSTILE, "demo.yaml", "DEMO", "nowhere"])
def test_a_use_case_is_a_file_in_configs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/demo.yaml").touch()
    with pytest.raises(ConfigError, match="there are: demo"):
        training_words(text, "", False)


def test_settings_are_words_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/demo.yaml").touch()
    words = training_words("demo", "\n recipe.epochs=2\n\ndata.source='a b; touch INJECTED'\n", True)
    assert words == [
        "configs/demo.yaml", "--set=recipe.epochs=2", "--set=data.source='a b; touch INJECTED'", "--bootstrap",
    ]  # fmt: skip
    for line in ("--bootstrap", "recipe.epochs", "=1", "$(x)=1"):
        with pytest.raises(ConfigError, match="one KEY=VALUE a line"):
            training_words("demo", line, False)


@pytest.mark.parametrize("value", ["a\nverdict=PROMOTE", "a b", "<<EOF", "$(x)", "ä", "x\r"])
def test_an_output_cannot_make_another(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runner.OUTPUT, str(tmp_path / "output"))
    with pytest.raises(AssayError, match="no name, version"):
        runner.outputs({"verdict": "HOLD", "model": value})
    assert not (tmp_path / "output").exists()


def test_outputs_and_pages_are_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runner.OUTPUT, str(tmp_path / "output"))
    monkeypatch.setenv(runner.SUMMARY, str(tmp_path / "summary"))
    runner.outputs({"model": "demo@1", "image": f"ghcr.io/a/b@sha256:{'0' * 64}"})
    runner.outputs({"verdict": "HOLD"})
    runner.summary("one\n\n")
    runner.summary("two")
    assert (tmp_path / "output").read_text().splitlines()[::2] == ["model=demo@1", "verdict=HOLD"]
    assert (tmp_path / "summary").read_text() == "one\n\ntwo\n\n"
    monkeypatch.delenv(runner.SUMMARY)
    runner.summary("elsewhere")


def test_what_a_command_prints_is_no_command_for_the_runner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with runner.no_commands():
        print("::error::x")
    begun, said, ended = capsys.readouterr().out.splitlines()
    token = begun.removeprefix("::stop-commands::")
    assert (said, ended) == ("::error::x", f"::{token}::")
    assert len(token) == 32


def test_a_variable_that_is_not_set_in_github_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("AWS_ROLE_ARN", "")
    monkeypatch.setenv("AWS_REGION", "eu")
    monkeypatch.setenv("OTHER", "")
    runner.drop_empty_variables()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "AWS_ROLE_ARN" not in os.environ
    assert (os.environ["AWS_REGION"], os.environ["OTHER"]) == ("eu", "")


def test_who_is_at_work_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_ACTOR", raising=False)
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    assert actor("") == "octocat"
    assert actor("too many\nfalse alarms\u2028") == "octocat: too many false alarms "
    assert len(actor("x" * 1000)) == MAX_ACTOR
