"""A ledger of many entries: seconds to find the champion, to verify it, and to count one more look.

Every third entry is a look, and most of the others are verdicts; one test set is looked at 20 times.
`--root s3://bucket/prefix` measures an object store (with the usual AWS_… variables) instead of a folder.
"""

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from assay.gate.ledger import Asked, Judged, Ledger, Promoted
from assay.gate.ledger.bucket import Bucket
from assay.gate.ledger.chain import Chain
from assay.gate.ledger.entries import Body, encode
from assay.gate.ledger.stores import Folder
from assay.gate.looks import Question, Sketch, sketch
from assay.gate.verdict import Decision

from harness import arguments

IMAGES, LOOKS, PROMOTED = 400, 20, 10
START = datetime(2026, 1, 1, tzinfo=UTC)


def digest(*parts: object) -> str:
    """A SHA-256 of its own for each value."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def test_set(number: int) -> Sketch:
    """Of `IMAGES` images; the next one has others."""
    return sketch([digest("image", number, index) for index in range(IMAGES)])


def facts(chain: Chain) -> Iterator[Body]:
    """What a use case would write in the long run: look, verdict, and one time in `PROMOTED` a promotion."""
    candidate = 0
    while True:
        number = candidate // LOOKS
        rival = chain.champion.bundle_digest if chain.champion else None
        judged = {
            "candidate_digest": digest("candidate", candidate),
            "champion_digest": rival,
            "policy_digest": digest("policy"),
            "split_digest": digest("split", number),
        }
        asked = Asked(look=candidate % LOOKS + 1, question=Question(sketch=test_set(number), **judged))
        yield asked
        passed = candidate % PROMOTED == 0
        yield Judged(
            decision=Decision.PROMOTE if passed else Decision.HOLD,
            look=asked.look,
            bootstrap=rival is None,
            verdict_digest=digest("verdict", candidate),
            evidence_digest=digest("evidence", candidate),
            champion_version=chain.champion.version if chain.champion else None,
            **judged,
        )
        if passed:
            yield Promoted(version=str(candidate + 1), bundle_digest=judged["candidate_digest"], verdict=chain.number)
        candidate += 1


def written(count: int) -> list[bytes]:
    """The bytes of so many entries of the use case `bench`."""
    chain, blobs = Chain("bench"), []
    for number, body in enumerate(facts(chain)):
        if number == count:
            break
        blobs.append(encode(chain.next(body, START + timedelta(minutes=number), "")))
        problems = chain.add(number + 1, blobs[-1])
        assert not problems, problems
    return blobs


class Counting(Bucket):
    """A bucket that counts the pages of listings that a search for the last entry takes."""

    pages: ClassVar[int] = 0

    def _after(self, number: int) -> tuple[int, bool]:
        type(self).pages += 1
        return super()._after(number)


def opened(root: str) -> Ledger:
    """The ledger `bench` below `root`, counting."""
    ledger = Ledger.open("bench", root)
    return replace(ledger, store=Counting(ledger.store.place)) if isinstance(ledger.store, Bucket) else ledger


def fill(ledger: Ledger, blobs: list[bytes]) -> None:
    """Create the entries; in a folder without waiting for the disk each time."""
    if isinstance(ledger.store, Folder):
        ledger.store.path.mkdir(parents=True)
        for number, data in enumerate(blobs, 1):
            (ledger.store.path / f"{number:08d}.json").write_bytes(data)
        return
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ledger.store.create, range(1, len(blobs) + 1), blobs))


def seconds(work: Callable[[], object], rounds: int) -> str:
    """Median of some runs, with the least and the most."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return f"{statistics.median(taken):8.3f} s  [{min(taken):.3f}, {max(taken):.3f}]"


def report(ledger: Ledger, blobs: list[bytes], rounds: int) -> None:
    """Fill it and print what each thing takes."""
    fill(ledger, blobs)
    print(f"{len(blobs):,} entries, {sum(map(len, blobs)) / 1e6:.1f} MB, in {ledger.store.place}")
    print(f"champion  {seconds(ledger.champion, rounds)}")
    if isinstance(ledger.store, Counting):
        print(f"          {Counting.pages / rounds:.0f} pages of a listing and 1 read each")
    print(f"verify    {seconds(lambda: _sound(ledger), rounds)}")
    question = Question(
        candidate_digest=digest("new"),
        champion_digest=None,
        policy_digest=digest("policy"),
        split_digest=digest("new"),
        sketch=test_set(-1),
    )
    print(f"look      {seconds(lambda: ledger.look(question, LOOKS), 1)}  (reads all, then writes one)")


def main() -> None:
    """Measure a folder, and what `--root` names."""
    options = arguments(__doc__, entries=10_000, rounds=5, root="")
    blobs = written(options.entries)
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
        report(opened(options.root or folder), blobs, options.rounds)


def _sound(ledger: Ledger) -> None:
    if problems := ledger.verify():
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
