"""A command of Assay as a step of a workflow: its outputs, the page of the run, and the news of it."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.console import say
from assay.errors import AssayError, ConfigError
from assay.gate.ledger.entries import MAX_ACTOR
from assay.gate.telling import markdown
from assay.gate.verdict import EXIT_CODES, Verdict
from assay.github.identity import kept_fresh
from assay.github.markdown import code, table
from assay.github.runner import no_commands, outputs, summary
from assay.notify import URL, News, What, notify

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
NEWS: dict[str, What] = {"train": "verdict", "promote": "promotion", "rollback": "rollback"}
NO_REASON = "assay: no reason was said"


def run(
    command: str, arguments: Callable[[], Sequence[str]], use_case: str, environment: str = "", reason: str = ""
) -> int:
    """Run a command of `assay`, tell what came of it, and give the exit code of the step: 0 for every verdict.

    Args:
        command: `train`, `promote` or `rollback`.
        arguments: gives its arguments, or raises what is wrong with what was asked for.
        use_case: whom it is about, for the news.
        environment: where, for the news.
        reason: why, for the news.

    Raises:
        AssayError: of `arguments`; it is told.
    """
    with failing_is_told(command, use_case, environment):
        words = arguments()
    exit_code, printed, error = _run([sys.executable, "-m", "assay", command, "--json", *words], reason)
    good = exit_code in (EXIT_CODES.values() if command == "train" else {0})
    if not good or (result := _json(printed)) is None:
        exit_code = 1 if good else exit_code
        _tell_failure(command, error, exit_code, use_case, environment)
        return exit_code
    if "verdict" not in result and command == "train":
        return _goes_on(use_case, result["run"])
    page, values, version, verdict = trained(result) if command == "train" else released(result)
    outputs(values)
    summary(page)
    notify(News(NEWS[command], use_case, version, verdict, environment, reason))
    return 0


@contextmanager
def failing_is_told(command: str, use_case: str, environment: str = "") -> Iterator[None]:
    """What is wrong inside the block is on the page of the run and in the news before it goes on its way."""
    try:
        yield
    except AssayError as error:
        _tell_failure(command, str(error), error.exit_code, use_case, environment)
        raise


def training_words(use_case: str, settings: str, bootstrap: bool) -> list[str]:
    """Arguments of `assay` that train a use case.

    Args:
        use_case: the name of a file in `configs/`.
        settings: what to replace in it, one KEY=VALUE a line.
        bootstrap: whether the first model may pass without a champion; the config decides if not.

    Raises:
        ConfigError: there is no such use case, or a line is no setting.
    """
    config = config_of(use_case)
    wrong = next((line for line in lines(settings) if not re.match(r"[a-z][a-z0-9_.]*=", line)), None)
    if wrong:
        raise ConfigError(f"setting {wrong[:80]!r}: give one KEY=VALUE a line, such as recipe.epochs=2")
    return [str(config), *(f"--set={line}" for line in lines(settings)), *(["--bootstrap"] * bootstrap)]


def config_of(use_case: str) -> Path:
    """The YAML of a use case, by its name.

    Raises:
        ConfigError: it is no name, or there is none.
    """
    path = Path("configs") / f"{use_case}.yaml"
    if not NAME.fullmatch(use_case) or not path.is_file():
        known = ", ".join(sorted(path.stem for path in Path("configs").glob("*.yaml"))) or "none"
        raise ConfigError(f"no use case {use_case[:80]!r} in configs/; there are: {known}")
    return path


def lines(settings: str) -> list[str]:
    """Those that say something."""
    return [line.strip() for line in settings.splitlines() if line.strip()]


Told = tuple[str, dict[str, str], str, str]


def trained(result: dict[str, Any]) -> Told:
    """Page, outputs, version and verdict of what `assay train --json` printed."""
    model = result["model"]
    verdict = Verdict.model_validate(result["verdict"])
    named = f"{model['name']}@{model['version']}"
    rows = [["model", code(named)], ["bundle", code(model["digest"])], ["run", code(result["run"])]]
    rows += [["report", link]] if (link := _mlflow_page(model)) else []
    page = "\n".join([markdown(verdict), *table(["", ""], rows)])
    values = {"verdict": str(verdict.decision), "model": named, "digest": model["digest"]}
    values["report"] = near(Path(result["report"]))
    return page, values, model["version"], str(verdict.decision)


def _goes_on(use_case: str, run: str) -> int:
    """That a stack does not wait is a choice, and no failure; whatever hangs on a verdict is left out."""
    why = "the stack does not wait for it (ASSAY_WAIT): no verdict here, and nothing is promoted by this run"
    summary(f"### Training of {code(use_case)} goes on\n\n{code(run)}: {why}.")
    say("train", f"{run} goes on: {why}")
    return 0


def released(outcome: dict[str, Any]) -> Told:
    """Page, outputs, version and nothing of what `assay promote --json` or `assay rollback --json` printed."""
    release = outcome["release"]
    named = f"{release['model']}@{release['version']}"
    rows = [
        ["bundle", code(release["bundle_digest"])],
        ["image", code(release["image"], 300) if release["image"] else "none: a process"],
        ["instead of", code(outcome["replaced"] or "nothing")],
        ["seen", code(outcome["seen"], 300)],
        ["ledger", f"entry {int(outcome['entry'])}"],
        *(["to do", code(note, 300)] for note in outcome["notes"]),
    ]
    page = "\n".join([f"### {release['environment']} serves {code(named)}", *table(["", ""], rows)])
    return page, {"model": named, "digest": release["bundle_digest"]}, release["version"], ""


def _tell_failure(command: str, error: str, exit_code: int, use_case: str, environment: str) -> None:
    """By the output `told`, the last step of the job knows that it need not."""
    summary(f"### {command} failed\n\n{code(error, 1000)}\n\nExit code {exit_code}.")
    notify(News("failure", use_case, environment=environment, reason=f"{command}: {error}"))
    outputs({"told": "true"})


def _json(printed: bytes) -> Any:
    try:
        return json.loads(printed)
    except ValueError:
        return None


def _run(command: Sequence[str], reason: str) -> tuple[int, bytes, str]:
    """Exit code, standard output, and the line that says what is wrong; standard error is passed on as it comes."""
    # Whoever is told once should not be told twice: the hooks of the pipelines notify, too.
    environment = {name: value for name, value in os.environ.items() if name != URL} | {"ASSAY_ACTOR": actor(reason)}
    error = NO_REASON
    with no_commands(), kept_fresh(), tempfile.TemporaryFile() as printed:
        with subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stderr
            for line in process.stderr:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
                error = line.decode(errors="replace").strip() if line.startswith(b"assay: ") else error
        printed.seek(0)
        return process.returncode, printed.read(), error.removeprefix("assay: ")


def actor(reason: str) -> str:
    """Who is at work and why, for the ledger: one line of what can be printed."""
    who = os.environ.get("ASSAY_ACTOR") or os.environ.get("GITHUB_ACTOR") or "github"
    told = f"{who}: {reason}" if reason else who
    return "".join(char if char.isprintable() else " " for char in told)[:MAX_ACTOR]


def near(path: Path) -> str:
    """A path as short as it can be said in this folder, where the next steps are, too."""
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()


def _mlflow_page(model: dict[str, Any]) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not re.fullmatch(r"https?://[A-Za-z0-9.:/_-]+", uri):
        return ""
    return f"[in MLflow]({uri.rstrip('/')}/#/experiments/{int(model['experiment_id'])}/runs/{model['run_id']})"
