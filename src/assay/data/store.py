"""The store of decoded images: shards, and the index of what they hold and which file it came from.

One folder for each geometry and version of the decoder, shared by all sources. In it:

- `<name>.npy`: a shard. It appears whole, by renaming.
- `<name>.parquet`: the rows of the index for that shard, written after it: what an interrupted scan leaves behind.
- `index.parquet`: all rows, written when a scan is over; then the former go.
- `.*.partial`: being written. What is found of them at the start of a scan is of one that died, and is removed.
- `.lock`: held by the scan that writes here.

A row counts only if its shard has the size that the row says: what is missing or cut short is decoded again.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc

from assay import console, digests, preprocess
from assay.data import manifest, measure, shards
from assay.data.sources import Sample
from assay.errors import DataError
from assay.preprocess import Geometry

_LISTED, _SPLIT = ("uri", "label", "given_group", "stamp"), ("group", "split")

LISTING = pa.schema([manifest.MANIFEST.field(name) for name in _LISTED])
"""What a manifest holds of a file that its source says, unread."""

CONTENT = pa.schema([field for field in manifest.MANIFEST if field.name not in (*_LISTED, *_SPLIT)])
"""What a manifest holds of a file's content, whoever lists it."""

INDEX = pa.schema(
    [
        ("source", pa.string()),
        ("uri", pa.string()),
        ("stamp", pa.string()),
        *CONTENT,
        ("shard_rows", pa.int32()),  # of its whole shard; 0 without one
    ]
)
"""One row a file that was read, under the stamp it had."""


class Store:
    """The folder for one geometry. Whatever writes in it does so inside `locked`."""

    def __init__(self, root: Path, geometry: Geometry, max_pixels: int) -> None:
        decoder = [preprocess.VERSION, measure.VERSION, PIL.__version__, max_pixels]
        self.folder = root / f"{geometry.size}-{geometry.fit}-{digests.of_json(decoder)[:8]}"
        self.size = geometry.size

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the folder, after waiting for any other scan; what a scan that died was writing is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as lock:
            _acquire(lock.fileno(), self.folder)
            for stale in self.folder.glob(".*.partial"):
                stale.unlink(missing_ok=True)
            yield

    def load(self) -> pa.Table:
        """The rows of the index whose pixels are still there (`INDEX`)."""
        tables = [table for path in sorted(self.folder.glob("*.parquet")) if (table := self._read(path)) is not None]
        index = stacked(tables)
        places = index.group_by(["shard", "shard_rows"]).aggregate([]).to_pylist()
        gone = [place["shard"] for place in places if not self._whole(place["shard"], place["shard_rows"])]
        return index.filter(~pc.field("shard").isin(pa.array(gone, pa.string()))) if gone else index

    def add(self, name: str, rows: pa.Table) -> None:
        """Record the rows of a shard that is whole, so that they outlive this scan whatever becomes of it."""
        manifest.write(rows, self.folder / f"{name}.parquet")

    def replace(self, index: pa.Table) -> None:
        """Make `index` all that is known."""
        parts = [path for path in self.folder.glob("*.parquet") if path.name != "index.parquet"]
        manifest.write(index, self.folder / "index.parquet")
        for path in parts:
            path.unlink()

    def _read(self, path: Path) -> pa.Table | None:
        try:
            return manifest.read(path).cast(INDEX)
        except (DataError, ValueError) as error:
            console.warn("ingest", f"index not usable, its images are decoded again: {error}")
            return None

    def _whole(self, shard: str, rows: int) -> bool:
        if not shard:
            return True
        try:
            return (self.folder / shard).stat().st_size == shards.file_bytes(rows, self.size)
        except OSError:
            return False


def listed(samples: Sequence[Sample]) -> pa.Table:
    """`LISTING` of the samples of a source, by uri."""
    columns = {
        "uri": [sample.uri for sample in samples],
        "label": [sample.label for sample in samples],
        "given_group": [sample.group for sample in samples],
        "stamp": [sample.stamp for sample in samples],
    }
    return manifest.ordered(pa.table(columns, schema=LISTING))


def samples(listing: pa.Table) -> list[Sample]:
    """The samples of a `LISTING`."""
    return [Sample(*values) for values in zip(*(listing[name].to_pylist() for name in LISTING.names), strict=True)]


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of the index as one, in one piece; without a copy where only one has rows."""
    filled = [table for table in tables if table.num_rows]
    return pa.concat_tables(filled).combine_chunks() if filled else INDEX.empty_table()


def matches(index: pa.Table, source: str, listing: pa.Table) -> np.ndarray:
    """For each file of `source` the row of `index` that has it under its stamp: int64 [n], -1 where none has."""
    own = pc.equal(index["source"], pa.scalar(source))
    keys = pc.if_else(own, _keys(index["uri"], index["stamp"]), pa.scalar(None, pa.string()))
    found = pc.index_in(_keys(listing["uri"], listing["stamp"]), value_set=keys.combine_chunks())
    rows: np.ndarray = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return rows


def merged(old: pa.Table, new: pa.Table) -> pa.Table:
    """`new` rows of a source, and of the `old` ones those of other files and those of content that is in no new row."""
    here = _keys(new["source"], new["uri"])
    again = pc.is_in(_keys(old["source"], old["uri"]), value_set=here.combine_chunks())
    content_again = pc.is_in(old["sha256"], value_set=pc.unique(new["sha256"]))
    return pa.concat_tables([old.filter(pc.invert(pc.and_(again, content_again))), new])


def _keys(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(first, second, "\0")


def _acquire(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        console.say("ingest", f"waiting for another scan (process {holder}) to be done with {folder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
