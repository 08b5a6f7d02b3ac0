"""Whatever is done to a ledger's files by hand is found."""

import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay import digests
from assay.errors import LedgerError
from assay.gate.ledger import Entry, Ledger, fingerprint
from assay.gate.ledger.entries import MAX_BYTES, decode, encode
from assay.gate.verdict import Decision

from ledgers import USE_CASE, crown, digest, judge, question

Document = dict[str, Any]


def history(root: str) -> Ledger:
    """Eleven entries: 1 and 2 champions, 2 rolled back, and a candidate that was held."""
    ledger = Ledger.open(USE_CASE, root, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    crown(ledger, "1")
    crown(ledger, "2")
    ledger.rollback()
    judge(ledger, "3", Decision.HOLD)
    ledger.look(question("4"), 20)
    crown(ledger, "5")
    return ledger


with tempfile.TemporaryDirectory() as folder:
    ENTRIES = history(folder).entries()
BLOBS = [encode(entry) for entry in ENTRIES]
COUNT = len(BLOBS)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[list[bytes | None]], Ledger]]:
    """A function that writes these bytes as entries 1, 2, …; none for None."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as root:
        folder = Path(root) / USE_CASE
        folder.mkdir()

        def write(blobs: list[bytes | None]) -> Ledger:
            for path in folder.iterdir():
                path.unlink()
            for number, data in enumerate(blobs, 1):
                (folder / f"{number:08d}.json").write_bytes(data) if data is not None else None
            return Ledger.open(USE_CASE, root)

        yield write


Write = Callable[[list[bytes | None]], Ledger]
freely = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def relinked(number: int, change: Callable[[Document], None]) -> list[bytes | None]:
    """The history with one entry changed, and all after it made to hold on to it: a forger's work."""
    blobs: list[bytes | None] = []
    for data in BLOBS:
        entry = json.loads(data)["entry"]
        entry["previous"] = digests.of_bytes(blobs[-1]) if blobs else ""  # type: ignore[arg-type]
        if entry["number"] == number:
            change(entry)
        content = digests.canonical_json(entry)
        blobs.append(b'{"entry":%b,"sha256":"%b"}' % (content, digests.of_bytes(content).encode()))
    return blobs


def not_believed(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="the ledger is not believed until that is mended") as caught:
        ledger.entries()
    assert "\n" not in str(caught.value)
    assert ledger.verify()


def test_what_was_written_is_believed(written: Write) -> None:
    ledger = written([*BLOBS])
    assert ledger.verify() == []
    assert ledger.entries() == ENTRIES


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.number}-{entry.kind}")
@given(actor=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20))
def test_an_entry_is_its_canonical_bytes_and_no_others(entry: Entry, actor: str) -> None:
    named = entry.model_copy(update={"actor": actor})
    data = encode(named)
    assert decode(data) == named
    assert data == digests.canonical_json(json.loads(data))


@freely
@given(number=st.integers(0, COUNT - 1), place=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(written: Write, number: int, place: int, bit: int) -> None:
    damaged = bytearray(BLOBS[number])
    damaged[place % len(damaged)] ^= 1 << bit
    ledger = written([*BLOBS[:number], bytes(damaged), *BLOBS[number + 1 :]])
    assert ledger.verify()[0].startswith(f"entry {number + 1} ")
    not_believed(ledger)


@freely
@given(gone=st.sets(st.integers(0, COUNT - 2), min_size=1))
def test_removed_entries_are_found(written: Write, gone: set[int]) -> None:
    ledger = written([None if number in gone else data for number, data in enumerate(BLOBS)])
    missing = " ".join(ledger.verify())
    assert f"{min(gone) + 1} " in missing
    assert "missing" in missing
    not_believed(ledger)


@freely
@given(order=st.permutations(range(COUNT)).filter(lambda order: order != list(range(COUNT))))
def test_reordered_entries_are_found(written: Write, order: list[int]) -> None:
    ledger = written([BLOBS[number] for number in order])
    misplaced = {place + 1 for place, number in enumerate(order) if place != number}
    told = {int(problem.split()[1]) for problem in ledger.verify()}
    assert misplaced <= told
    not_believed(ledger)


@freely
@given(number=st.integers(0, COUNT - 1), cut=st.integers(0, 10**6))
def test_a_cut_entry_is_found(written: Write, number: int, cut: int) -> None:
    data = BLOBS[number]
    not_believed(written([*BLOBS[:number], data[: cut % len(data)], *BLOBS[number + 1 :]]))


@freely
@given(number=st.integers(0, COUNT - 1), data=st.binary(max_size=200))
def test_what_is_no_entry_is_found(written: Write, number: int, data: bytes) -> None:
    not_believed(written([*BLOBS[:number], data, *BLOBS[number + 1 :]]))


def test_an_end_that_was_taken_away_is_found_by_who_remembers_it(written: Write) -> None:
    ledger = written([*BLOBS[:-2]])
    assert ledger.verify() == []
    (problem,) = ledger.verify({COUNT: fingerprint(ENTRIES[-1])})
    assert problem.startswith(f"entry {COUNT} is missing, which was there")


def test_a_history_that_was_replaced_is_found_by_who_remembers_it(written: Write) -> None:
    ledger = written(relinked(1, lambda entry: entry.update(actor="somebody else")))
    assert ledger.verify() == []
    assert ledger.verify({4: fingerprint(ENTRIES[3])}) == ["entry 4 is another one than the one that was there"]


def test_all_problems_are_told(written: Write) -> None:
    blobs: list[bytes | None] = [*BLOBS]
    blobs[1], blobs[4], blobs[5], blobs[8] = b"{}", None, None, BLOBS[9]
    problems = written(blobs).verify()
    assert [problem.partition(" ")[2].split()[0] for problem in problems] == ["2", "3", "5", "9", "9", "10"]
    assert problems[2] == "entries 5 to 6 are missing"
    assert problems[3] == "entry 9 says that it is entry 10"


NOBODY = {"bundle_digest": digest("nobody"), "number": 3, "version": "9"}


@pytest.mark.parametrize(
    ("number", "change", "problem"),
    [
        (4, lambda entry: entry.update(champion=NOBODY), "entry 4 names as champion version 9"),
        (4, lambda entry: entry.update(champion=None), "entry 4 names as champion none, where it is version 1"),
        (3, lambda entry: entry["champion"].update(number=2), "entry 3 names as champion version 1"),
        (2, lambda entry: entry["body"].update(decision="HOLD"), "entry 3 is a promotion by entry 2, which holds no"),
        (2, lambda entry: entry["body"].update(bootstrap=False), "entry 3 is a promotion by entry 2, which compares"),
        (6, lambda entry: entry["body"].update(verdict=2), "entry 6 promotes"),
        (6, lambda entry: entry["body"].update(verdict=1), "entry 6 is a promotion by entry 1, which holds no PROMOTE"),
        (4, lambda entry: entry["body"].update(look=1), "entry 4 is counted as look 1 and is look 2"),
        (2, lambda entry: entry["body"].update(look=2), "entry 2 is a PROMOTE by look 2, and no entry before it"),
        (7, lambda entry: entry["body"].update(version="3"), "entry 7 names as champion version 1"),
        (7, lambda entry: entry["body"].update(instead_of="1"), "entry 7 is a rollback from version 1, which is not"),
        (3, lambda entry: entry.update(use_case="other"), "entry 3 belongs to the use case 'other'"),
        (3, lambda entry: entry.update(format=2), "entry 3 has a format that this version of Assay does not know"),
        (3, lambda entry: entry.update(number=4), "entry 3 says that it is entry 4"),
        (3, lambda entry: entry.update(more=1), "entry 3 is no entry: entry.more: Extra inputs are not permitted"),
        (3, lambda entry: entry["body"].update(kind="gift"), "entry 3 is no entry: entry.body: Input tag 'gift'"),
        (3, lambda entry: entry.update(number="3"), "entry 3 was altered"),
        (3, lambda entry: entry.update(at="2026-01-01T01:00:00+01:00"), "entry 3 was altered"),
    ],
)
def test_a_forged_entry_is_found(written: Write, number: int, change: Callable[[Document], None], problem: str) -> None:
    ledger = written(relinked(number, change))
    assert any(told.startswith(problem) for told in ledger.verify())


def test_one_verdict_cannot_promote_twice(written: Write) -> None:
    again = json.loads(BLOBS[5])["entry"]["body"]
    blobs = relinked(7, lambda entry: entry.update(body={**again, "verdict": 5}))
    assert any("entry 7 is a promotion by entry 5, which allowed that of entry 6" in p for p in written(blobs).verify())


def test_an_entry_too_large_is_not_read(written: Write) -> None:
    ledger = written([BLOBS[0] + b" " * MAX_BYTES])
    assert ledger.verify() == [f"entry 1 has more than {MAX_BYTES:,} bytes, which no entry has"]


def test_the_head_is_checked_by_itself(written: Write) -> None:
    with pytest.raises(LedgerError, match=r"entry 2 is no entry: .*JSON"):
        written([BLOBS[0], b"rubbish"]).champion()
    with pytest.raises(LedgerError, match="entry 2 says that it is entry 1 of 'demo'"):
        written([BLOBS[0], BLOBS[0]]).champion()


def test_nothing_is_written_after_what_is_not_believed(written: Write) -> None:
    ledger = written([BLOBS[0], None, BLOBS[2]])
    with pytest.raises(LedgerError, match="entry 2 is missing"):
        ledger.look(question("x"), 5)
    assert ledger.store.numbers() == [1, 3]
