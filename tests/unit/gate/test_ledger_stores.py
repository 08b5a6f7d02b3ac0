"""Where entries lie. The bucket is one in memory here; tests/integration/test_ledger.py has a real one."""

import errno
import math
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import AlreadyExistsError
from obstore.store import MemoryStore

from assay.errors import LedgerError
from assay.gate.ledger import Ledger
from assay.gate.ledger import bucket as bucket_module
from assay.gate.ledger.bucket import Bucket
from assay.gate.ledger.entries import MAX_BYTES
from assay.gate.ledger.stores import Folder, Store

from ledgers import USE_CASE, crown, question


def bucket(memory: MemoryStore | None = None) -> Bucket:
    made = Bucket("s3://bucket/ledgers/demo")
    vars(made)["_s3"] = memory or MemoryStore()
    return made


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Folder(tmp_path / "demo") if request.param == "folder" else bucket()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / USE_CASE


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(USE_CASE, str(tmp_path))


def test_an_entry_is_created_once(store: Store) -> None:
    assert [store.create(1, b"one"), store.create(1, b"two"), store.create(2, b"two")] == [True, False, True]
    assert (store.numbers(), store.last()) == ([1, 2], 2)
    assert [*store.read_all([1, 2, 3])] == [b"one", b"two", None]


def test_nothing_is_there_at_first(store: Store) -> None:
    assert (store.numbers(), store.last(), store.read(1)) == ([], 0, None)


def test_no_more_is_read_than_an_entry_can_have(store: Store) -> None:
    store.create(1, bytes(10_000_000))
    assert len(store.read(1) or b"") == MAX_BYTES + 1


def test_a_ledger_in_a_bucket(tmp_path: Path) -> None:
    ledger = Ledger(USE_CASE, bucket())
    assert ledger.champion() is None
    crown(ledger, "1")
    assert crown(ledger, "2").champion == ledger.champion()
    assert ledger.verify() == []


# Folders.


def test_what_is_no_entry_is_left_alone(ledger: Ledger, folder: Path) -> None:
    crown(ledger, "1")
    for name in (".00000004.json.77.ab.partial", "00000009.json.bak", "9.json", "notes.txt", "x00000009.json"):
        (folder / name).write_text("{")
    assert crown(ledger, "2").number == 6
    assert ledger.verify() == []


def test_nothing_else_stays_behind(ledger: Ledger, folder: Path) -> None:
    crown(ledger, "1")
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:08d}.json" for number in (1, 2, 3)]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_an_entry_that_is_no_file_is_a_problem_and_no_wait(
    ledger: Ledger, folder: Path, make: Callable[[Path], None]
) -> None:
    crown(ledger, "1")
    make(folder / "00000004.json")
    with pytest.raises(LedgerError, match=r"entry 4 is no entry|entry 4 has more|cannot be read: Is a directory"):
        ledger.entries()


def failing(code: int) -> Callable[..., None]:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        ("fsync", errno.ENOSPC, "No space left on device"),
        ("link", errno.EPERM, "Operation not permitted"),
        ("link", errno.EROFS, "Read-only file system"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_no_entry(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, reason: str
) -> None:
    crown(ledger, "1")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(LedgerError, match=f"^{re.escape(str(folder))}: the ledger cannot be written: {reason}"):
            ledger.look(question("a"), 5)
    assert len(list(folder.iterdir())) == 3
    assert ledger.look(question("a"), 5).number == 2


def test_a_file_system_that_does_not_sync_folders(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, fail = os.fsync, failing(errno.EINVAL)
    monkeypatch.setattr(os, "fsync", lambda n: fail() if stat.S_ISDIR(os.fstat(n).st_mode) else fsync(n))
    crown(ledger, "1")
    assert ledger.verify() == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Ledger.open(USE_CASE, str(tmp_path / "file"))
    with pytest.raises(LedgerError, match="the ledger cannot be read: Not a directory"):
        ledger.champion()


def test_an_entry_that_vanishes_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    crown(ledger, "1")
    monkeypatch.setattr(Folder, "read_all", lambda store, numbers: iter([None] * len(numbers)))
    for read in (ledger.head, ledger.entries):
        with pytest.raises(LedgerError, match="entry 3 vanished while the ledger was read"):
            read()


def test_a_listing_that_runs_ahead_of_itself_is_no_gap(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a folder is listed, an entry may come too late to be in the list, and the next one in time."""
    crown(ledger, "1")
    crown(ledger, "2")
    lists = iter([[1, 2, 3, 5], [1, 2, 3, 4, 5, 6]])
    monkeypatch.setattr(Folder, "numbers", lambda store: next(lists))
    assert [entry.number for entry in ledger.entries()] == [1, 2, 3, 4, 5]


# Buckets.


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PAGE", 3)


def with_numbers(numbers: set[int], others: list[str] | None = None) -> Bucket:
    memory = MemoryStore()
    for key in [f"{number:08d}.json" for number in numbers] + (others or []):
        obstore.put(memory, f"ledgers/demo/{key}", b"x")
    return bucket(memory)


@given(st.sets(st.integers(1, 60)), st.sampled_from([1, 2, 3, 7]))
def test_the_last_entry_is_found_whatever_is_missing(numbers: set[int], page: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_module, "PAGE", page)
        assert with_numbers(numbers).last() == max(numbers, default=0)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 100, 3000])
def test_the_last_entry_is_found_by_few_requests(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, after = [], Bucket._after
    monkeypatch.setattr(Bucket, "_after", lambda store, number: asked.append(number) or after(store, number))
    assert with_numbers(set(range(1, count + 1))).last() == count
    assert len(asked) <= 2 * math.log2(max(count / 3, 1)) + 3


@pytest.mark.usefixtures("small_pages")
def test_other_objects_are_no_entries() -> None:
    store = with_numbers(set(range(1, 8)), ["notes.txt", "zz", "0/1", "00000003.json.bak", "sub/00000099.json", "99"])
    assert store.last() == 7
    assert store.numbers() == [1, 2, 3, 4, 5, 6, 7]


def test_the_largest_number_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PAGE", 1)
    assert with_numbers({60_000_000, 99_999_999}).last() == 99_999_999


def test_a_neighbouring_prefix_is_not_looked_at() -> None:
    memory = MemoryStore()
    obstore.put(memory, "ledgers/demo2/00000001.json", b"x")
    obstore.put(memory, "ledgers/00000001.json", b"x")
    assert (bucket(memory).last(), bucket(memory).numbers()) == (0, [])


@pytest.mark.parametrize("known", [0, 1])
def test_a_store_that_overwrites_is_refused(monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    memory, put = MemoryStore(), obstore.put
    if known:
        crown(Ledger(USE_CASE, bucket(memory)), "1")
    before = {meta["path"]: bytes(obstore.get(memory, meta["path"]).bytes()) for meta in memory.list().collect()}
    monkeypatch.setattr(obstore, "put", lambda store, key, data, mode: put(store, key, data))
    with pytest.raises(LedgerError, match="ignores conditional writes"):
        Ledger(USE_CASE, bucket(memory)).look(question("x"), 5)
    after = {meta["path"]: bytes(obstore.get(memory, meta["path"]).bytes()) for meta in memory.list().collect()}
    assert {key: after[key] for key in before} == before
    assert len(after) == (len(before) or 1)


def test_a_store_in_which_several_create_the_same_object_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks first and writes then, as SeaweedFS did up to 4.16: one after the other all is well."""
    memory, put, met = MemoryStore(), obstore.put, threading.Barrier(bucket_module.RIVALS)

    def careless(store: MemoryStore, key: str, data: bytes, mode: str) -> object:
        with suppress(FileNotFoundError):
            obstore.head(store, key)
            raise AlreadyExistsError
        met.wait(20)
        return put(store, key, data)

    monkeypatch.setattr(obstore, "put", careless)
    with pytest.raises(LedgerError, match="several at the same moment succeed"):
        Ledger(USE_CASE, bucket(memory)).look(question("x"), 5)


def test_a_store_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, put, keys = MemoryStore(), obstore.put, []
    monkeypatch.setattr(
        obstore, "put", lambda store, key, data, mode: keys.append(int(key[-13:-5])) or put(store, key, data, mode=mode)
    )
    store = bucket(memory)
    crown(Ledger(USE_CASE, store), "1")
    assert keys == [1, 1, 1, 1, 2, 3]
    crown(Ledger(USE_CASE, bucket(memory)), "2")
    assert keys == [1, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4, 5, 6]
