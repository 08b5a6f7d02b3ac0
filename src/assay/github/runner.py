"""GitHub's runner: the files by which a step tells the next ones and the reader something."""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from assay.errors import AssayError

OUTPUT, SUMMARY = "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"
_NAME, _VALUE = re.compile(r"[a-z][a-z_]*"), re.compile(r"[A-Za-z0-9._@:/+-]*")
OURS = ("ASSAY_", "AWS_", "MLFLOW_", "ZENML_", "KUBE")


def outputs(values: Mapping[str, str]) -> None:
    """Set outputs of the step; outside of GitHub nothing happens.

    Raises:
        AssayError: a value has a character that no name, version, digest or address has: a line break would make
            another output of its own.
    """
    for name, value in values.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise AssayError(f"output {name}: {value[:80]!r} is no name, version, digest or address")
    _append(OUTPUT, "".join(f"{name}={value}\n" for name, value in values.items()))


def summary(markdown: str) -> None:
    """Add to the page of the run; outside of GitHub nothing happens."""
    _append(SUMMARY, f"{markdown.rstrip()}\n\n")


@contextmanager
def no_commands() -> Iterator[None]:
    """What is printed meanwhile is no command for the runner, whatever it looks like."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        yield
        return
    token = secrets.token_hex(16)
    click.echo(f"::stop-commands::{token}")
    try:
        yield
    finally:
        click.echo(f"::{token}::")


def drop_empty_variables() -> None:
    """A variable or secret that is not set in GitHub arrives as an empty one, and libraries take that for a value."""
    for name in [name for name, value in os.environ.items() if not value and name.startswith(OURS)]:
        del os.environ[name]


def _append(variable: str, content: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(content)
