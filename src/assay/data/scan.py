"""The scan: one pass over the raw files, to a manifest and shards.

A file is read once and its content decoded once, ever: the store remembers both. What comes out depends on the files
alone, not on their order, the number of workers, or what the store held before (but for the places of the pixels).
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assay import console
from assay.config import DataConfig
from assay.data import manifest, shards
from assay.data.dataset import Dataset
from assay.data.intake import Intake
from assay.data.sources import Source, open_source
from assay.data.store import CONTENT, INDEX, Store, listed, matches, merged
from assay.data.workers import Worker, available_cpus
from assay.errors import DataError
from assay.home import subfolder
from assay.preprocess import Geometry


def scan(
    source: Source,
    config: DataConfig,
    store: Path,
    workers: int | None = None,
    *,
    shard_bytes: int = shards.SHARD_BYTES,
) -> Dataset:
    """Read every file of `source` that the store does not know yet; the manifest and the pixels of all of them.

    A file that is no usable image keeps its row, with the reason in `fault`. So do all files of a picture that stands
    under several labels: nobody can say which is right. Those keep their pixels.

    Args:
        source: what to scan. Nothing is written there.
        config: geometry and limits.
        store: folder of decoded images, shared by scans of any source; see `assay.data.store`.
        workers: processes that read and decode; None for as many as there are CPUs, 1 for none but this one.
        shard_bytes: the most that a shard file may hold.

    Raises:
        DataError: the source cannot be listed, the store cannot be written, or no file is a usable image. What was
            decoded until then stays in the store.
    """
    begun = time.monotonic()
    listing = listed(source.list())
    geometry = Geometry(config.image_size, config.fit)
    room = Store(store, geometry, config.max_pixels)
    rows_a_shard = shards.capacity(geometry.size, shard_bytes)
    worker = Worker(source, geometry, config.max_pixels, room.folder, secrets.token_hex(4), rows_a_shard)
    with _disk_errors(room.folder), room.locked():
        content, read = _contents(listing, room, worker, workers or available_cpus())
    columns = {name: table[name] for table in (listing, content) for name in table.column_names}
    table = _conflicts_quarantined(manifest.build(columns))
    _report(source.uri, table, read, time.monotonic() - begun)
    return Dataset(table, room.folder, geometry, manifest.labels(table), source.uri)


def scan_source(config: DataConfig) -> Dataset:
    """`scan` of the source that `config` names, into the store of the local state.

    Raises:
        DataError: as `scan`, and where there is no such source.
    """
    source = open_source(config.source)
    try:
        return scan(source, config, store=subfolder("shards"))
    finally:
        source.close()


def _contents(listing: pa.Table, room: Store, worker: Worker, processes: int) -> tuple[pa.Table, int]:
    """For each file of the listing the columns `CONTENT`, and how many files had to be read for that."""
    index = room.load()
    codes = matches(index, worker.source.uri, listing)
    unknown = np.flatnonzero(codes < 0)
    intake = Intake(room, index, worker, listing.take(unknown))
    intake.run(processes)
    known, codes[unknown] = intake.result()
    del intake
    rows = known.select([*CONTENT.names, "shard_rows"]).take(codes)
    if len(unknown):
        own = {"source": pa.repeat(pa.scalar(worker.source.uri), len(codes)), "uri": listing["uri"]}
        own |= {"stamp": listing["stamp"]} | {name: rows[name] for name in rows.column_names}
        room.replace(merged(index, pa.table(own, schema=INDEX).filter(pc.field("sha256") != "")))
    return rows.select(CONTENT.names), len(unknown)


def _conflicts_quarantined(table: pa.Table) -> pa.Table:
    """`table` with a fault in every row whose content stands under another label too."""
    usable = table.select(["sha256", "label", "fault"]).filter(pc.field("fault") == "")
    counts = usable.group_by("sha256").aggregate([([], "count_all")]).filter(pc.field("count_all") > 1)
    copies = usable.filter(pc.is_in(usable["sha256"], value_set=counts["sha256"].combine_chunks()))
    several = copies.group_by("sha256").aggregate([("label", "distinct"), ("label", "count_distinct")])
    several = several.filter(pc.field("label_count_distinct") > 1)
    reasons = pa.array([_conflict(labels) for labels in several["label_distinct"].to_pylist()], pa.string())
    found = pc.index_in(table["sha256"], value_set=several["sha256"].combine_chunks())
    faults = pc.if_else(pc.is_valid(found), reasons.take(found), table["fault"])
    return table.set_column(table.column_names.index("fault"), "fault", faults)


_LABELS_NAMED = 5


def _conflict(labels: list[str]) -> str:
    named = ", ".join(sorted(labels)[:_LABELS_NAMED])
    return f"the same picture stands under {len(labels)} labels: {named}{', …' * (len(labels) > _LABELS_NAMED)}"


def _report(source: str, table: pa.Table, read: int, seconds: float) -> None:
    """Say what came out of the scan; DataError if that is nothing."""
    bad = table.filter(pc.field("fault") != "")
    if bad.num_rows == table.num_rows:
        first = bad.slice(0, 3)
        reasons = "; ".join(f"{uri}: {fault}" for uri, fault in zip(first["uri"], first["fault"], strict=True))
        raise DataError(f"{source}: no usable image among {table.num_rows:,} files: {reasons}")
    rate = f"{read / max(seconds, 1e-9):,.0f}/s" if read else "all known"
    console.say("ingest", f"{table.num_rows:,} images  {rate}  {bad.num_rows:,} quarantined")


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Errors of the file system as one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        remedy = "free some space there, or name a roomier folder in ASSAY_HOME; what is finished is kept"
        raise DataError(f"{folder}: the decoded images cannot be stored: {reason}; {remedy}") from None
