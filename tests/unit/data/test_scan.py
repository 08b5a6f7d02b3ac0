import errno
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assay.config import DataConfig
from assay.data import intake, shards, workers
from assay.data.dataset import Dataset
from assay.data.scan import scan
from assay.data.sources import Sample, open_source
from assay.errors import DataError
from assay.preprocess import Geometry, decode

SIZE = 16
CONFIG = DataConfig(source="memory", image_size=SIZE)
PLACES = ["shard", "row"]


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


GOOD = [jpeg(seed) for seed in range(6)]
BAD = [b"", b"no image", GOOD[0][:-40]]


@dataclass
class Memory:
    """A source in memory: (uri, label) to content, or to the error that reading raises. Counts what is read."""

    files: dict[tuple[str, str], bytes | BaseException]
    uri: str = "memory"
    version: str = ""
    read_uris: list[str] = field(default_factory=list)

    def list(self) -> list[Sample]:
        return [Sample(uri, label, None, self._stamp(uri, label)) for uri, label in self.files]

    def read(self, sample: Sample) -> bytes:
        self.read_uris.append(sample.uri)
        content = self.files[sample.uri, sample.label]
        if isinstance(content, BaseException):
            raise content
        return content

    def close(self) -> None:
        pass

    def _stamp(self, uri: str, label: str) -> str:
        return self.version + hashlib.sha256(repr(self.files[uri, label]).encode()).hexdigest()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What has been decoded so far, in this process."""
    seen: list[bytes] = []
    real = workers.inspect
    monkeypatch.setattr(workers, "inspect", lambda data, *rest: seen.append(data) or real(data, *rest))
    return seen


def content(dataset: Dataset) -> pa.Table:
    """The manifest without the places of the pixels."""
    return dataset.manifest.drop_columns(PLACES)


def pixels(dataset: Dataset) -> dict[tuple[str, str], bytes]:
    """The pixels of every row that has some, quarantined or not."""
    reader = shards.Reader(dataset.shards, dataset.geometry.size)
    found = {}
    for row in dataset.manifest.select(["uri", "label", *PLACES]).to_pylist():
        if row["shard"]:
            out = np.empty((1, SIZE, SIZE, 3), np.uint8)
            reader.read(row["shard"], np.array([row["row"]]), out, np.array([0]))
            found[row["uri"], row["label"]] = out.tobytes()
    return found


def faults(dataset: Dataset) -> dict[str, str]:
    return {row["uri"]: row["fault"] for row in dataset.manifest.to_pylist() if row["fault"]}


def make_folder(root: Path, contents: list[bytes]) -> str:
    for i, data in enumerate(contents):
        path = root / ("b", "a")[i % 2] / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


FILES = st.lists(
    st.tuples(st.sampled_from("pqrstuvw"), st.sampled_from("xyz"), st.sampled_from([*GOOD, *BAD])),
    min_size=1,
    max_size=12,
)


def as_source(files: list[tuple[str, str, bytes]]) -> Memory:
    return Memory({("always", "x"): jpeg(99)} | {(uri, label): data for uri, label, data in files})


def expected_fault(source: Memory, uri: str, label: str) -> str:
    data = source.files[uri, label]
    others = {other for (_, other), content in source.files.items() if content == data}
    if data in BAD:
        return "bad"
    return "conflict" if len(others) > 1 else ""


def kind(fault: str) -> str:
    return "conflict" if fault.startswith("the same picture stands under") else "bad" if fault else ""


@given(files=FILES, order=st.randoms(), rows_a_shard=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_scan_says_of_each_file_what_it_is_whatever_the_order_and_shards(
    files: list[tuple[str, str, bytes]], order: random.Random, rows_a_shard: int
) -> None:
    source = as_source(files)
    shuffled = list(source.files.items())
    order.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        fresh = scan(source, CONFIG, Path(one), workers=1)
        other = scan(Memory(dict(shuffled)), CONFIG, Path(two), 1, shard_bytes=shards.file_bytes(rows_a_shard, SIZE))
        rows = fresh.manifest.to_pylist()
        assert {(r["uri"], r["label"]): kind(r["fault"]) for r in rows} == {
            key: expected_fault(source, *key) for key in source.files
        }
        assert pixels(fresh) == {
            key: decode(data, Geometry(SIZE)).tobytes() for key, data in source.files.items() if data not in BAD
        }
        assert content(other).equals(content(fresh))
        assert pixels(other) == pixels(fresh)
        assert other.digest == fresh.digest


@given(before=FILES, after=FILES)
@settings(max_examples=30, deadline=None)
def test_a_scan_onto_a_used_store_gives_what_a_fresh_one_gives(
    before: list[tuple[str, str, bytes]], after: list[tuple[str, str, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as used, tempfile.TemporaryDirectory() as new:
        scan(as_source(before), CONFIG, Path(used), workers=1)
        again = scan(as_source(after), CONFIG, Path(used), workers=1)
        fresh = scan(as_source(after), CONFIG, Path(new), workers=1)
        assert content(again).equals(content(fresh))
        assert pixels(again) == pixels(fresh)
        assert again.digest == fresh.digest


def test_worker_processes_give_the_same_manifest_and_the_same_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_FEW", 1)
    contents = [GOOD[i % 3] + b"\0" * (i // 4) for i in range(60)] + BAD
    folder = make_folder(tmp_path / "images", contents)
    (tmp_path / "images" / "a" / "0000.jpg").symlink_to("nowhere")
    limit = shards.file_bytes(7, SIZE)
    one = scan(open_source(folder), CONFIG, tmp_path / "1", workers=1, shard_bytes=limit)
    two = scan(open_source(folder), CONFIG, tmp_path / "2", workers=2, shard_bytes=limit)
    assert two.manifest.equals(one.manifest)
    names = sorted(path.name for path in one.shards.glob("*.npy"))
    assert len(names) > 3
    assert sorted(path.name for path in two.shards.glob("*.npy")) == names
    assert [(two.shards / n).read_bytes() for n in names] == [(one.shards / n).read_bytes() for n in names]


def test_the_columns_say_what_the_original_was(tmp_path: Path) -> None:
    row = scan(Memory({("u", "x"): GOOD[0]}), CONFIG, tmp_path, workers=1).manifest.to_pylist()[0]
    stored = decode(GOOD[0], Geometry(SIZE)).astype(int)
    assert (row["width"], row["height"], row["mode"], row["format"]) == (24, 20, "RGB", "JPEG")
    assert (row["bytes"], row["sha256"]) == (len(GOOD[0]), hashlib.sha256(GOOD[0]).hexdigest())
    assert [row[f"sum_{c}"] for c in "rgb"] == stored.sum((0, 1)).tolist()
    assert [row[f"sumsq_{c}"] for c in "rgb"] == (stored**2).sum((0, 1)).tolist()
    assert (row["fault"], row["group"], row["split"]) == ("", "", "")


def test_bad_files_keep_their_rows_with_a_reason(tmp_path: Path) -> None:
    unreadable = {
        ("e", "x"): DataError("a symbolic link out of the folder"),
        ("f", "x"): OSError(5, "Input/output error"),
    }
    files = {("a", "x"): GOOD[0], ("b", "x"): b"", ("c", "x"): b"text", ("d", "x"): GOOD[1][:200], **unreadable}
    dataset = scan(Memory(files), CONFIG, tmp_path, workers=1)
    assert faults(dataset) == {
        "b": "empty file",
        "c": "no image: neither JPEG, PNG, WebP, BMP, TIFF nor GIF by its content",
        "d": "broken or truncated JPEG",
        "e": "a symbolic link out of the folder",
        "f": "cannot be read: Input/output error",
    }
    bad = dataset.manifest.slice(1)
    assert bad["row"].to_pylist() == [-1] * 5
    assert bad["shard"].to_pylist() == [""] * 5
    assert bad["sha256"].to_pylist()[3:] == ["", ""]


def test_a_picture_under_two_labels_is_quarantined_wherever_it_stands(tmp_path: Path) -> None:
    files = {("a", "x"): GOOD[0], ("b", "y"): GOOD[0], ("c", "x"): GOOD[0], ("d", "x"): GOOD[1], ("e", "x"): GOOD[1]}
    dataset = scan(Memory(files), CONFIG, tmp_path, workers=1)
    reason = "the same picture stands under 2 labels: x, y"
    assert faults(dataset) == {"a": reason, "b": reason, "c": reason}
    assert set(pixels(dataset)) == set(files)


def test_a_conflict_that_is_mended_is_over(tmp_path: Path) -> None:
    scan(Memory({("a", "x"): GOOD[0], ("b", "y"): GOOD[0], ("c", "y"): GOOD[1]}), CONFIG, tmp_path, workers=1)
    mended = scan(Memory({("a", "x"): GOOD[0], ("c", "y"): GOOD[1]}), CONFIG, tmp_path, workers=1)
    assert faults(mended) == {}


def test_a_class_without_a_usable_image_is_still_a_class(tmp_path: Path) -> None:
    dataset = scan(Memory({("a", "x"): GOOD[0], ("b", "y"): b""}), CONFIG, tmp_path, workers=1)
    assert dataset.labels == ("x", "y")


def test_nothing_usable_stops_the_scan_with_the_first_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="memory: no usable image among 2 files: a: empty file; b: no image"):
        scan(Memory({("a", "x"): b"", ("b", "x"): b"text"}), CONFIG, tmp_path, workers=1)


def test_the_limit_of_pixels_is_honoured_also_when_it_changes(tmp_path: Path) -> None:
    source = Memory({("a", "x"): GOOD[0], ("b", "x"): jpeg(7)})
    narrow = CONFIG.model_copy(update={"max_pixels": 479})
    with pytest.raises(DataError, match="24 x 20 pixels announced"):
        scan(source, narrow, tmp_path, workers=1)
    assert faults(scan(source, CONFIG, tmp_path, workers=1)) == {}


def test_a_content_is_decoded_once_however_often_it_stands(tmp_path: Path, decoded: list[bytes]) -> None:
    files = {(f"{i:03d}", "x"): GOOD[i % 2] for i in range(200)}
    dataset = scan(Memory(files), CONFIG, tmp_path, workers=1)
    assert sorted(decoded) == sorted(GOOD[:2])
    assert len(dataset.usable) == 200


def test_an_unchanged_file_is_not_even_read_again(tmp_path: Path, decoded: list[bytes]) -> None:
    files = {("a", "x"): GOOD[0], ("b", "x"): GOOD[1], ("c", "x"): b"text"}
    first = scan(Memory(files), CONFIG, tmp_path, workers=1)
    decoded.clear()
    grown = Memory(files | {("d", "x"): GOOD[2]})
    second = scan(grown, CONFIG, tmp_path, workers=1)
    assert grown.read_uris == ["d"]
    assert decoded == [GOOD[2]]
    assert second.manifest.slice(0, 3).equals(first.manifest)


def test_a_file_that_was_only_touched_is_read_but_not_decoded(tmp_path: Path, decoded: list[bytes]) -> None:
    files = {("a", "x"): GOOD[0], ("b", "x"): GOOD[1]}
    first = scan(Memory(files), CONFIG, tmp_path, workers=1)
    decoded.clear()
    touched = Memory(files, version="2")
    second = scan(touched, CONFIG, tmp_path, workers=1)
    assert touched.read_uris == ["a", "b"]
    assert decoded == []
    assert second.digest == first.digest
    rested = Memory(files, version="2")
    scan(rested, CONFIG, tmp_path, workers=1)
    assert rested.read_uris == []


def test_the_store_is_shared_by_sources(tmp_path: Path, decoded: list[bytes]) -> None:
    scan(Memory({("a", "x"): GOOD[0]}), CONFIG, tmp_path, workers=1)
    decoded.clear()
    other = Memory({("elsewhere/a", "x"): GOOD[0]}, uri="another")
    assert len(scan(other, CONFIG, tmp_path, workers=1).usable) == 1
    assert other.read_uris == ["elsewhere/a"]
    assert decoded == []


def test_a_removed_file_is_gone_from_the_manifest(tmp_path: Path) -> None:
    scan(Memory({("a", "x"): GOOD[0], ("b", "x"): GOOD[1]}), CONFIG, tmp_path, workers=1)
    dataset = scan(Memory({("b", "x"): GOOD[1]}), CONFIG, tmp_path, workers=1)
    assert dataset.manifest["uri"].to_pylist() == ["b"]


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    files: dict[tuple[str, str], bytes | BaseException] = {
        ("a", "x"): GOOD[0],
        ("b", "x"): OSError(5, "Input/output error"),
    }
    scan(Memory(files), CONFIG, tmp_path, workers=1)
    again = Memory(files)
    assert faults(scan(again, CONFIG, tmp_path, workers=1)) == {"b": "cannot be read: Input/output error"}
    assert again.read_uris == ["b"]


def test_what_a_missing_shard_held_is_decoded_again(tmp_path: Path, decoded: list[bytes]) -> None:
    source = Memory({(str(i), "x"): GOOD[i] for i in range(6)})
    limit = shards.file_bytes(2, SIZE)
    first = scan(source, CONFIG, tmp_path, workers=1, shard_bytes=limit)
    before = pixels(first)
    lost = first.manifest["shard"][2].as_py()
    os.truncate(first.shards / lost, 1000)
    decoded.clear()
    second = scan(source, CONFIG, tmp_path, workers=1, shard_bytes=limit)
    assert decoded == GOOD[2:4]
    assert second.manifest.equals(first.manifest)
    assert pixels(second) == before


def test_originals_are_neither_written_nor_touched(tmp_path: Path) -> None:
    folder = Path(make_folder(tmp_path / "images", [*GOOD, *BAD]))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.jpg")}
    scan(open_source(str(folder)), CONFIG, tmp_path / "store", workers=1)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.jpg")} == before
    assert len([path for path in folder.rglob("*") if path.is_file()]) == len(before)


def test_an_interrupt_loses_no_finished_shard_and_leaves_nothing_half_written(
    tmp_path: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_FIRST_BATCH", 1)
    monkeypatch.setattr(intake, "_BATCH_FILES", 1)
    whole = Memory({(str(i), "x"): GOOD[i] for i in range(6)})
    limit = shards.file_bytes(2, SIZE)
    with pytest.raises(KeyboardInterrupt):
        scan(Memory(whole.files | {("5", "x"): KeyboardInterrupt()}), CONFIG, tmp_path / "used", 1, shard_bytes=limit)
    assert list((tmp_path / "used").rglob("*.partial")) == []
    decoded.clear()
    resumed = scan(whole, CONFIG, tmp_path / "used", workers=1, shard_bytes=limit)
    assert decoded == GOOD[4:]
    fresh = scan(whole, CONFIG, tmp_path / "fresh", workers=1, shard_bytes=limit)
    assert resumed.manifest.equals(fresh.manifest)
    assert pixels(resumed) == pixels(fresh)


KILLED = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from assay.config import DataConfig
from assay.data import intake, shards
from assay.data.scan import scan
from assay.data.sources.folder import FolderSource

@dataclass
class Stalling(FolderSource):
    def read(self, sample):
        if "0050" in sample.uri:
            Path(sys.argv[2], "stalled").touch()
            time.sleep(600)
        return super().read(sample)

folder, store, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
scan(Stalling(str(folder), folder), DataConfig(source="x", image_size=16), store, workers,
     shard_bytes=shards.file_bytes(4, 16))
"""


def test_a_scan_that_was_killed_leaves_a_store_that_the_next_one_can_use(tmp_path: Path, decoded: list[bytes]) -> None:
    folder = make_folder(tmp_path / "images", [jpeg(i) for i in range(60)])
    store = tmp_path / "store"
    store.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, folder, str(store), "1"], stderr=subprocess.DEVNULL
    ) as process:
        while not (store / "stalled").exists() and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
    assert list(store.rglob("*.partial"))
    resumed = scan(open_source(folder), CONFIG, store, workers=1, shard_bytes=shards.file_bytes(4, SIZE))
    assert 0 < len(decoded) < 60
    assert list(store.rglob("*.partial")) == []
    fresh = scan(open_source(folder), CONFIG, tmp_path / "fresh", workers=1)
    assert content(resumed).equals(content(fresh))
    assert pixels(resumed) == pixels(fresh)


def full_disk(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let `writes` images be written, and no more."""
    real, left = os.pwrite, iter(range(writes))

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) > 100 and next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)


def test_a_full_disk_is_one_line_and_the_store_stays_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[bytes]
) -> None:
    source = Memory({(str(i), "x"): GOOD[i] for i in range(6)})
    limit = shards.file_bytes(1, SIZE)
    monkeypatch.setattr(intake, "_FIRST_BATCH", 1)
    monkeypatch.setattr(intake, "_BATCH_FILES", 1)
    full_disk(monkeypatch, writes=4)
    with pytest.raises(DataError, match="No space left on device; free some space") as caught:
        scan(source, CONFIG, tmp_path, workers=1, shard_bytes=limit)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.partial")) == []
    monkeypatch.undo()
    dataset = scan(source, CONFIG, tmp_path, workers=1, shard_bytes=limit)
    assert pixels(dataset) == {(str(i), "x"): decode(GOOD[i], Geometry(SIZE)).tobytes() for i in range(6)}


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be stored: Not a directory"):
        scan(Memory({("a", "x"): GOOD[0]}), CONFIG, tmp_path / "store", workers=1)


def test_a_scan_says_how_many_images_and_how_many_are_quarantined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Memory({("a", "x"): GOOD[0], ("b", "x"): b""})
    scan(source, CONFIG, tmp_path, workers=1)
    scan(source, CONFIG, tmp_path, workers=1)
    first, second = capsys.readouterr().err.splitlines()
    assert "2 images" in first
    assert "1 quarantined" in first
    assert "all known" in second


def test_the_data_set_can_be_saved_after_its_store_has_moved(tmp_path: Path) -> None:
    dataset = scan(Memory({("a", "x"): GOOD[0]}), CONFIG, tmp_path / "store", workers=1)
    dataset.save(tmp_path / "saved")
    shutil.move(dataset.shards, tmp_path / "moved")
    moved = Dataset.load(tmp_path / "saved", tmp_path / "moved")
    assert pixels(moved) == {("a", "x"): decode(GOOD[0], Geometry(SIZE)).tobytes()}
