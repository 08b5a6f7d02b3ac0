"""The ledger of a use case: what was asked of each test set, what was judged, and what was ever champion."""

import gc
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from assay.errors import LedgerError
from assay.gate.ledger.chain import Chain
from assay.gate.ledger.entries import (
    Asked,
    Body,
    Champion,
    Entry,
    Judged,
    Promoted,
    Released,
    RolledBack,
    Withdrawn,
    decode,
    encode,
    fault,
)
from assay.gate.ledger.releases import Release
from assay.gate.ledger.stores import Store, folders, open_store
from assay.gate.looks import Look, Question
from assay.gate.verdict import Verdict
from assay.home import home

ATTEMPTS = 50
"""Writers that come between one's reading and writing before one gives up."""
LONGEST_WAIT_S = 0.5

_USE_CASE = re.compile(r"[a-z][a-z0-9_]{0,62}")

Decide = Callable[[Chain], Body | Entry]
"""What to write after a chain; or an entry of it that says so already."""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Ledger:
    """One chain of numbered entries: each holds the digest of the one before it, and none is ever changed.

    All methods raise LedgerError where the ledger cannot be read, written or believed. Every method that writes reads
    the whole chain first, decides, and creates the next entry only if nobody else has; who comes second decides anew.
    """

    use_case: str
    store: Store
    actor: str = ""
    clock: Callable[[], datetime] = now

    @classmethod
    def open(
        cls, use_case: str, root: str | None = None, *, actor: str = "", clock: Callable[[], datetime] = now
    ) -> "Ledger":
        """The ledger of a use case; nothing is read or written yet.

        Args:
            use_case: its name.
            root: a folder or `s3://bucket/prefix`; by default `$ASSAY_LEDGER`, else the folder `ledger` of the local
                state.
            actor: who or what writes, for the entries; no more than one wants to keep for ever.
            clock: gives the time of an entry, with its time zone.
        """
        if not _USE_CASE.fullmatch(use_case):
            raise LedgerError(f"{use_case!r} is no name of a use case")
        return cls(use_case, open_store(root or ledger_root(), use_case), actor, clock)

    def entries(self) -> list[Entry]:
        """All entries, oldest first, each of them checked."""
        return self.chain().entries

    def head(self) -> Entry | None:
        """The last entry, checked by itself: it is found by O(log n) requests, and the others are not read."""
        number = self.store.last()
        if not number:
            return None
        data = self.store.read(number)
        if data is None:
            raise self._error(f"entry {number} vanished while the ledger was read")
        try:
            entry = decode(data)
        except ValueError as error:
            raise self._error(f"entry {number} {error}") from None
        if (entry.number, entry.use_case) != (number, self.use_case):
            raise self._error(f"entry {number} says that it is entry {entry.number} of {entry.use_case!r}")
        return entry

    def champion(self) -> Champion | None:
        """Who is champion, by the last entry alone."""
        head = self.head()
        return head.champion if head else None

    def append(self, decide: Decide) -> Entry:
        """Write what `decide` says, or give the entry that it finds to say so already.

        Args:
            decide: is asked again, of the longer chain, whenever another writer came first, or one's own first try did,
                whose answer was lost on the way: it must know what it said again. It raises LedgerError where nothing
                may be written.
        """
        chain = self.chain()
        for attempt in range(ATTEMPTS):
            said = self._decided(decide, chain)
            if isinstance(said, Entry):
                return said
            entry = self._next(chain, said)
            if self.store.create(entry.number, encode(entry)):
                return entry
            self._catch_up(chain)
            time.sleep(random.uniform(0, min(LONGEST_WAIT_S, 0.002 * 2**attempt)))  # noqa: S311 (no secret)
        raise self._error(f"other writers came first {ATTEMPTS} times; try again")

    def look(self, question: Question, allowed: int) -> Look:
        """Count a question that is about to be put to a test set. Only after this may anything be computed from it.

        The same question keeps the number it had, and costs nothing.

        Args:
            question: what is asked.
            allowed: how many looks at one test set the policy allows.
        """

        def decide(chain: Chain) -> Body | Entry:
            return chain.looks.get(question.key) or Asked(
                look=chain.tally.count(question.sketch) + 1, question=question
            )

        body = self.append(decide).body
        number = body.look if isinstance(body, Asked) else 0
        return Look(number=number, left=max(allowed - number, 0), spent=number > allowed)

    def record(self, verdict: Verdict) -> Entry:
        """Write a verdict of this use case down; one that is there already is left as it is.

        A PROMOTE must be by a look that the ledger counts.
        """
        if verdict.use_case != self.use_case:
            raise self._error(f"a verdict on the use case {verdict.use_case!r} belongs into another ledger")

        def decide(chain: Chain) -> Body | Entry:
            return chain.recorded.get(verdict.digest) or _judged(verdict)

        return self.append(decide)

    def promote(self, version: str, bundle_digest: str) -> Entry:
        """Make a version the champion. If it is already, nothing is written.

        Args:
            version: as the registry counts them.
            bundle_digest: its bundle. The ledger must hold a PROMOTE for it that compares with the present champion,
                or is a bootstrap where there is none, and that allowed no promotion before.
        """

        def decide(chain: Chain) -> Body | Entry:
            present = chain.champion
            if present and (present.version, present.bundle_digest) == (version, bundle_digest):
                return chain.entries[present.number - 1]
            allowing = chain.allowing(bundle_digest)
            if allowing is None:
                raise self._error(f"version {version} cannot be promoted: {chain.why_not(bundle_digest)}")
            return Promoted(version=version, bundle_digest=bundle_digest, verdict=allowing)

        return self.append(decide)

    def rollback(self, to_version: str | None = None) -> Entry:
        """Make a version champion that was it before. If it is already, nothing is written.

        Args:
            to_version: by default the champion when the present one was promoted. A caller that repeats what may have
                succeeded must name it, or goes back twice.
        """
        expected: Champion | None = None
        if to_version is None:
            chain = self.chain()
            expected, to_version = chain.champion, self._former(chain)
        target = to_version

        def decide(chain: Chain) -> Body | Entry:
            present = chain.champion
            if present and present.version == target:
                return chain.entries[present.number - 1]
            if present is None or (expected and expected != present):
                raise self._error(
                    f"the champion changed meanwhile: it is {present or 'none'}; roll back again if need be"
                )
            if target not in chain.crowned:
                known = ", ".join(chain.crowned)
                raise self._error(f"version {target} was never champion, so there is no way back to it; were: {known}")
            return RolledBack(version=target, bundle_digest=chain.crowned[target], instead_of=present.version)

        return self.append(decide)

    def release(self, release: Release, rolled_back: bool = False) -> Entry:
        """Write down that a release is served in its environment. If the ledger says so already, nothing is written.

        Args:
            release: verified there. In production it must be the champion; elsewhere its bundle must have a PROMOTE.
            rolled_back: whether it was served there before and was gone back to.
        """

        def decide(chain: Chain) -> Body | Entry:
            present = chain.serving.get(release.environment)
            same = present is not None and chain.release(release.environment) == release
            return present if present and same else Released(release=release, rolled_back=rolled_back)

        return self.append(decide)

    def withdraw(self, release: Release, reason: str) -> Entry:
        """Write down that a release failed in its environment and was taken back.

        Args:
            release: that failed.
            reason: one line.
        """

        def decide(chain: Chain) -> Body:
            again = chain.release(release.environment)
            return Withdrawn(
                environment=release.environment, version=release.version, bundle_digest=release.bundle_digest,
                instead=again.version if again else None, reason=" ".join(reason.split())[:1000],
            )  # fmt: skip

        return self.append(decide)

    def verify(self, known: Mapping[int, str] | None = None) -> list[str]:
        """All that is wrong with the ledger, in words; nothing is written.

        What the entries cannot show by themselves is that the last ones were taken away, or all replaced: for that,
        something outside must remember one.

        Args:
            known: numbers of entries to their `fingerprint`, as remembered elsewhere.
        """
        chain, problems = self._replay()
        for number, expected in sorted((known or {}).items()):
            if number > chain.number:
                problems.append(f"entry {number} is missing, which was there: the end of the ledger was taken away")
            elif chain.fingerprints.get(number, expected) != expected:
                problems.append(f"entry {number} is another one than the one that was there")
        return problems

    def chain(self) -> Chain:
        """All entries and what follows from them, believed."""
        chain, problems = self._replay()
        self._stop_at(problems)
        return chain

    def _replay(self) -> tuple[Chain, list[str]]:
        numbers = self.store.numbers()
        last = numbers[-1] if numbers else 0
        if len(numbers) < last:
            # A listing may miss an entry and hold a later one, if both are created meanwhile; a second one holds both.
            numbers = [number for number in self.store.numbers() if number <= last]
        chain, problems = Chain(self.use_case), []
        with _uncollected():
            for number, data in zip(numbers, self.store.read_all(numbers), strict=True):
                if data is not None:  # else it is missing, as the next one tells, or the check of the last
                    problems += chain.add(number, data)
        if chain.number < last:
            problems.append(f"entry {last} vanished while the ledger was read")
        return chain, problems

    def _catch_up(self, chain: Chain) -> None:
        while (data := self.store.read(chain.number + 1)) is not None:
            self._stop_at(chain.add(chain.number + 1, data))

    def _stop_at(self, problems: list[str]) -> None:
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise self._error(f"{problems[0]}{more}; the ledger is not believed until that is mended")

    def _decided(self, decide: Decide, chain: Chain) -> Body | Entry:
        try:
            return decide(chain)
        except ValidationError as error:
            raise self._error(f"that cannot be written: {fault(error)}") from None

    def _next(self, chain: Chain, body: Body) -> Entry:
        try:
            return chain.next(body, self.clock(), self.actor)
        except ValidationError as error:
            raise self._error(f"that cannot be written: {fault(error)}") from None
        except ValueError as error:
            raise self._error(f"that would not be believed: a {body.kind} that {error}") from None

    def _former(self, chain: Chain) -> str:
        if chain.champion is None:
            raise self._error("there is no champion, so there is nothing to roll back")
        former = chain.before[chain.champion.version]
        if former is None:
            raise self._error(f"{chain.champion} is the first champion: nothing was before it")
        return former

    def _error(self, text: str) -> LedgerError:
        return LedgerError(f"{self.store.place}: {text}")


def ledger_root() -> str:
    """Where ledgers are: `$ASSAY_LEDGER`, a folder or `s3://bucket/prefix`; else a folder of the local state."""
    return os.environ.get("ASSAY_LEDGER") or str(home() / "ledger")


def use_cases() -> list[str]:
    """Names of the use cases that have a ledger."""
    return [name for name in folders(ledger_root()) if _USE_CASE.fullmatch(name)]


def alias_problem(champion: Champion | None, alias_version: str | None) -> str | None:
    """How the registry's alias `champion` disagrees with the ledger; None where it does not.

    Args:
        champion: by the ledger.
        alias_version: version that the alias points at, None without one.
    """
    expected = champion.version if champion else None
    if alias_version == expected:
        return None
    points = f"points at version {alias_version}" if alias_version else "is not set"
    says = f"the champion is {champion}, since entry {champion.number}" if champion else "there is no champion"
    return f"the alias 'champion' {points}, and by the ledger {says}"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: of many entries, all of them kept, it would take a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _judged(verdict: Verdict) -> Judged:
    return Judged(
        decision=verdict.decision,
        look=verdict.look,
        bootstrap=verdict.bootstrap,
        verdict_digest=verdict.digest,
        evidence_digest=verdict.evidence_digest,
        policy_digest=verdict.policy_digest,
        split_digest=verdict.split_digest,
        candidate_digest=verdict.candidate_digest,
        champion_digest=verdict.champion_digest,
        champion_version=verdict.champion_version,
    )
