"""Writers in processes of their own, for tests/integration/test_ledger.py. They do what each line of input says.

`race ROOT`: `USE_CASE VERSION TIME`: promote that version, whose bundle has the digest of the version's name, at that
time of the monotonic clock; prints how often another writer came between, and `won` or why not.
`die ROOT`: `USE_CASE SECONDS`: start a process that writes looks, and kill it after so long; prints when it is dead.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from assay.errors import LedgerError
from assay.gate.ledger import Ledger
from assay.gate.ledger.stores import Store
from assay.gate.looks import Question, sketch


@dataclass
class Watched:
    """A store that counts how often another writer came between reading and writing."""

    store: Store
    conflicts: int = 0

    def create(self, number: int, data: bytes) -> bool:
        """Of the store, counted."""
        created = self.store.create(number, data)
        self.conflicts += not created
        return created

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def digest(name: str) -> str:
    """A SHA-256 of its own for each name."""
    return hashlib.sha256(name.encode()).hexdigest()


def race(root: str, use_case: str, version: str, start: str) -> str:
    """Promote, at the time given."""
    ledger = Ledger.open(use_case, root)
    watched = Watched(ledger.store)
    while time.monotonic() < float(start):
        pass
    try:
        replace(ledger, store=watched).promote(version, digest(version))
    except LedgerError as error:
        return f"{watched.conflicts} {error}"
    return f"{watched.conflicts} won"


def die(root: str, use_case: str, seconds: str) -> str:
    """Have a writer, and kill it."""
    writer = os.fork()
    if not writer:
        write(Ledger.open(use_case, root))
    time.sleep(float(seconds))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    return "dead"


def write(ledger: Ledger) -> None:
    """One look after the other, for ever."""
    while True:
        asked = Question(
            candidate_digest=digest(str(time.monotonic_ns())),
            champion_digest=None,
            policy_digest=digest("policy"),
            split_digest=digest("split"),
            sketch=sketch([digest("image")]),
        )
        ledger.look(asked, 1)


def main() -> None:
    """Do one thing, line by line."""
    work: dict[str, Callable[..., str]] = {"race": race, "die": die}
    what, root = sys.argv[1:]
    for line in sys.stdin:
        print(work[what](root, *line.split()), flush=True)


if __name__ == "__main__":
    main()
