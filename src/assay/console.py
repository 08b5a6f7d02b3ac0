"""What a person sees while Assay works. Everything goes to standard error: standard output is for results.

On a terminal, long work shows a bar with its rate; elsewhere (CI, a pod's log) it prints plain lines instead.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_EVERY_S = 10.0


class Advance(Protocol):
    """Reports `n` more units of work done; `note` replaces the text behind the bar."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


def stderr() -> Console:
    """A rich console on the present standard error; no wrapping where no terminal has a width."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def say(stage: str, text: str) -> None:
    """Print one line: the stage's name in a column of its own, then what happened."""
    console = stderr()
    console.print(Text.assemble((f"{stage:<9} ", "bold"), text))


def warn(stage: str, text: str) -> None:
    """Like `say`, for what the user should look at."""
    stderr().print(Text.assemble((f"{stage:<9} ", "bold yellow"), text))


@contextmanager
def progress(stage: str, total: int, unit: str) -> Iterator[Advance]:
    """Show the progress of `total` units; yields the function that advances it."""
    console = stderr()
    if console.is_terminal:
        with _bar(console, unit) as bar:
            task = bar.add_task(f"{stage:<9}", total=total, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, **({"note": note} if note else {}))
    else:
        yield _PlainLines(stage, total, unit)


@contextmanager
def waiting(stage: str, text: str) -> Iterator[None]:
    """Show on a terminal that something goes on of which nobody knows how long it takes."""
    console = stderr()
    if console.is_terminal:
        with console.status(Text.assemble((f"{stage:<9} ", "bold"), text)):
            yield
    else:
        yield


class _PlainLines:
    """Progress for a log: a line every few seconds, none for work that is over before the first is due."""

    def __init__(self, stage: str, total: int, unit: str) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = 0
        self.start = self.last = time.monotonic()

    def __call__(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < PLAIN_EVERY_S:
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        say(self.stage, f"{self.done:,}/{self.total:,} {self.unit}  {rate:,.0f}/s  {note}".rstrip())


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f} {self.unit}  {speed:,.0f}/s")


def _bar(console: Console, unit: str) -> Progress:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(24), _Rate(unit), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeRemainingColumn(compact=True), console=console, transient=True)
