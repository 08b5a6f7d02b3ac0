import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from assay.data import shards
from assay.data.store import INDEX, Store, matches, merged
from assay.preprocess import Geometry

SIZE = 16


def store(root: Path, size: int = SIZE, fit: str = "squash", max_pixels: int = 10**6) -> Store:
    return Store(root, Geometry(size, fit), max_pixels)


def rows(*files: tuple[str, str, str, str], shard: str = "", shard_rows: int = 0) -> pa.Table:
    """Rows of an index, from (source, uri, stamp, sha256)."""
    n = len(files)
    columns = {"source": [f[0] for f in files], "uri": [f[1] for f in files], "stamp": [f[2] for f in files]}
    columns |= {"sha256": [f[3] for f in files], "shard": [shard] * n, "shard_rows": [shard_rows] * n}
    blank = {field.name: [""] * n if field.type == pa.string() else [0] * n for field in INDEX}
    return pa.table(blank | columns, schema=INDEX)


def uris(table: pa.Table) -> list[str]:
    return sorted(table["uri"].to_pylist())


def write_shard(room: Store, name: str, n: int) -> None:
    (room.folder / "p").touch()
    shards.seal(room.folder / "p", room.folder / name, n, SIZE)


@pytest.mark.parametrize("other", [{"size": 32}, {"fit": "pad"}, {"max_pixels": 99}])
def test_what_changes_the_pixels_or_the_faults_has_a_folder_of_its_own(
    other: dict[str, object], tmp_path: Path
) -> None:
    assert store(tmp_path, **other).folder != store(tmp_path).folder
    assert store(tmp_path).folder == store(tmp_path).folder


def test_an_index_is_loaded_with_the_parts_beside_it(tmp_path: Path) -> None:
    room = store(tmp_path)
    with room.locked():
        assert room.load().num_rows == 0
        room.replace(rows(("s", "a", "1", "x")))
        room.add("part", rows(("s", "b", "1", "y")))
        assert uris(room.load()) == ["a", "b"]
        room.replace(room.load())
        assert uris(room.load()) == ["a", "b"]
    assert [path.name for path in room.folder.glob("*.parquet")] == ["index.parquet"]


def test_rows_of_a_missing_or_shorter_shard_are_not_trusted(tmp_path: Path) -> None:
    room = store(tmp_path)
    with room.locked():
        for name in ("whole", "short", "missing"):
            write_shard(room, f"{name}.npy", 3)
            room.add(name, rows(("s", name, "1", name), shard=f"{name}.npy", shard_rows=3))
        room.add("fault", rows(("s", "fault", "1", "f")))
        os.truncate(room.folder / "short.npy", shards.file_bytes(3, SIZE) - 1)
        (room.folder / "missing.npy").unlink()
        assert uris(room.load()) == ["fault", "whole"]


@pytest.mark.parametrize("content", [b"", b"PAR1 half of it"])
def test_an_index_that_is_damaged_is_passed_over_with_a_warning(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room = store(tmp_path)
    with room.locked():
        room.add("part", rows(("s", "b", "1", "y")))
        (room.folder / "index.parquet").write_bytes(content)
        assert uris(room.load()) == ["b"]
    assert "decoded again" in capsys.readouterr().err


def test_an_index_of_other_columns_is_passed_over(tmp_path: Path) -> None:
    room = store(tmp_path)
    with room.locked():
        room.replace(rows(("s", "a", "1", "x")).drop_columns(["phash"]))
        assert room.load().num_rows == 0


def test_what_a_dead_scan_was_writing_is_removed(tmp_path: Path) -> None:
    room = store(tmp_path)
    with room.locked():
        (room.folder / ".0a1b-0.npy.partial").touch()
        write_shard(room, "kept.npy", 1)
    with room.locked():
        assert sorted(path.name for path in room.folder.iterdir()) == [".lock", "kept.npy"]


def test_a_second_scan_waits_for_the_first_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with store(tmp_path).locked():
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with store(tmp_path).locked():
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert f"waiting for another scan (process {os.getpid()})" in capsys.readouterr().err


def listing(*files: tuple[str, str]) -> pa.Table:
    return pa.table({"uri": [uri for uri, _ in files], "stamp": [stamp for _, stamp in files]})


def test_a_file_is_known_by_source_uri_and_stamp() -> None:
    index = rows(("s", "a", "1", "x"), ("t", "b", "1", "y"), ("s", "b", "2", "z"))
    found = matches(index, "s", listing(("b", "2"), ("a", "1"), ("b", "1"), ("c", "1")))
    assert found.tolist() == [2, 0, -1, -1]


def test_in_an_empty_index_nothing_is_known() -> None:
    assert matches(INDEX.empty_table(), "s", listing(("a", "1"))).tolist() == [-1]


def test_merging_replaces_files_and_keeps_other_files_and_lost_content() -> None:
    old = rows(
        ("s", "same", "1", "x"), ("s", "gone", "1", "y"), ("t", "same", "1", "x"), ("s", "changed", "1", "before")
    )
    new = rows(("s", "same", "2", "x"), ("s", "changed", "2", "after"))
    keys = [(row["source"], row["uri"], row["stamp"], row["sha256"]) for row in merged(old, new).to_pylist()]
    assert keys == [
        ("s", "gone", "1", "y"),
        ("t", "same", "1", "x"),
        ("s", "changed", "1", "before"),
        ("s", "same", "2", "x"),
        ("s", "changed", "2", "after"),
    ]
