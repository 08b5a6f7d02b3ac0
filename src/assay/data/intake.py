"""Takes in files that the store does not know: says which contents are new, and makes shards of them."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count

import numpy as np
import pyarrow as pa

from assay import console
from assay.data import shards
from assay.data.manifest import CHANNELS
from assay.data.sources import Sample
from assay.data.store import INDEX, Store, samples, stacked
from assay.data.workers import Hashed, Measured, Worker, inline, parallel

_FEW = 256
"""So many files are decoded by one process before others have started."""

_BATCH_FILES, _BATCH_BYTES, _FIRST_BATCH = 64, 16 * 2**20, 8
"""A worker holds the bytes of one batch. How large the files are is known after the first."""


class Intake:
    """One reading of the files of `listing` (`LISTING`), in their order; `index` is what the store knows (`INDEX`)."""

    def __init__(self, store: Store, index: pa.Table, worker: Worker, listing: pa.Table) -> None:
        self._store, self._index, self._worker, self._listing = store, index, worker, listing
        self._files = listing.num_rows
        self._code_of: dict[str, int] = dict(zip(index["sha256"].to_pylist(), count())) if self._files else {}
        self._codes: list[int] = []  # of each file its row in `result`; ~i for the i-th that could not be read
        self._bytes = 0
        self._new: list[tuple[int, Hashed]] = []
        self._measured: list[Measured] = []
        self._failed: list[tuple[int, Hashed]] = []
        self._parts: list[pa.Table] = []
        self._sealed_rows = 0

    def run(self, processes: int) -> None:
        """Read everything. Each shard is recorded as soon as it is full, so that an interrupt loses little."""
        if not self._files:
            return
        if self._files < _FEW:
            processes = 1
        batches = self._batches(processes)
        arguments = (self._worker, batches, self._admit)
        results = inline(*arguments) if processes == 1 else parallel(*arguments, processes)
        try:
            with closing(results), console.progress("ingest", self._files, "images") as advance:
                for files, measured in results:
                    self._take(measured)
                    advance(files)
            if self._measured:
                self._seal(len(self._measured))
        finally:
            self._worker.clean()

    def result(self) -> tuple[pa.Table, np.ndarray]:
        """What is known now, `INDEX`, and for each file its row there, int64 [n].

        The rows: those of `index`, then one for each new content, then one for each file that could not be read, the
        only ones without a sha256.
        """
        failed = [Measured(hashed.fault) for _, hashed in self._failed]
        rows = stacked([self._index, *self._parts, self._table(self._failed, failed, "", 0)])
        codes = np.array(self._codes, dtype=np.int64)
        return rows, np.where(codes < 0, rows.num_rows - len(failed) + ~codes, codes)

    def _batches(self, processes: int) -> Iterator[list[Sample]]:
        start = 0
        while start < self._files:
            fit = _BATCH_BYTES * len(self._codes) // self._bytes if self._bytes else _FIRST_BATCH
            fair = (self._files - start) // (2 * processes)
            size = max(1, min(_BATCH_FILES, fit, fair))
            yield samples(self._listing.slice(start, size))
            start += size

    def _admit(self, batch: Sequence[Hashed]) -> list[int | None]:
        """The place of each file's content among the new ones; None where it has none, or has one already."""
        return [self._place(hashed) for hashed in batch]

    def _place(self, hashed: Hashed) -> int | None:
        file = len(self._codes)
        self._bytes += hashed.bytes
        if not hashed.sha256:
            self._codes.append(~len(self._failed))
            self._failed.append((file, hashed))
            return None
        place = self._sealed_rows + len(self._new)
        code = self._code_of.setdefault(hashed.sha256, self._index.num_rows + place)
        self._codes.append(code)
        if code != self._index.num_rows + place:
            return None
        self._new.append((file, hashed))
        return place

    def _take(self, measured: list[Measured]) -> None:
        self._measured += measured
        while len(self._measured) >= self._worker.rows_a_shard:
            self._seal(self._worker.rows_a_shard)

    def _seal(self, rows: int) -> None:
        """Make a shard of the first `rows` new contents, unless none of them is an image, and record them."""
        new, self._new = self._new[:rows], self._new[rows:]
        measured, self._measured = self._measured[:rows], self._measured[rows:]
        name = hashlib.sha256("".join(hashed.sha256 for _, hashed in new).encode()).hexdigest()[:20]
        if any(not m.fault for m in measured):
            partial = self._worker.partial(self._sealed_rows // self._worker.rows_a_shard)
            shards.seal(partial, self._store.folder / f"{name}.npy", rows, self._store.size)
        part = self._table(new, measured, f"{name}.npy", rows)
        self._store.add(name, part)
        self._parts.append(part)
        self._sealed_rows += rows

    def _table(
        self, files: Sequence[tuple[int, Hashed]], measured: Sequence[Measured], shard: str, rows: int
    ) -> pa.Table:
        """`INDEX` of new contents, in a shard of `rows` images, each under the first file that has it."""
        usable = np.array([not m.fault for m in measured], dtype=bool)
        listed = self._listing.take(np.array([file for file, _ in files], dtype=np.int64))
        columns = {
            "source": [self._worker.source.uri] * len(files),
            "uri": listed["uri"].to_pylist(),
            "stamp": listed["stamp"].to_pylist(),
            "bytes": [hashed.bytes for _, hashed in files],
            "sha256": [hashed.sha256 for _, hashed in files],
            **{name: [getattr(m, name) for m in measured] for name in _SCALARS},
            **{f"sum_{c}": [m.sums[i] for m in measured] for i, c in enumerate(CHANNELS)},
            **{f"sumsq_{c}": [m.squares[i] for m in measured] for i, c in enumerate(CHANNELS)},
            "shard": np.where(usable, shard, ""),
            "row": np.where(usable, np.arange(len(files)), -1),
            "shard_rows": np.where(usable, rows, 0),
        }
        return pa.table({field.name: pa.array(columns[field.name], field.type) for field in INDEX}, schema=INDEX)


_SCALARS = ("phash", "width", "height", "mode", "format", "brightness", "contrast", "fault")
