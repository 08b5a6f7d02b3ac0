"""Tables of evidence as files, and their digests."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assay import digests
from assay.errors import DataError

UNSTABLE = ("latency_ms",)
"""Columns that differ between two runs of the same model."""


def read_table(path: Path) -> pa.Table:
    """Read Parquet (DataError where it is missing or unreadable)."""
    try:
        return pq.read_table(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}; evaluate again") from None


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet, whole or not at all."""
    partial = partial_of(path)
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Where this process writes what shall stand at `path` once it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def table_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and values of the columns that do not vary from run to run, in order of names."""
    state = hashlib.sha256()
    # By place and not by name: the gate refuses a table with a column twice, and has its digest on the refusal.
    for name, place in sorted((name, place) for place, name in enumerate(table.column_names) if name not in UNSTABLE):
        column: Any = table.column(place).combine_chunks()
        lengths = None
        if pa.types.is_list(column.type):
            lengths = column.value_lengths().to_pylist()
            column = column.flatten()
        state.update(digests.canonical_json([name, str(column.type), len(column), lengths]))
        state.update(_values(column))
    return state.hexdigest()


def _values(column: Any) -> bytes:
    if pa.types.is_floating(column.type):
        # A number that is missing counts as one that is not a number: the gate refuses both.
        numbers = column.to_numpy(zero_copy_only=False)
        return bytes(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())
    return digests.canonical_json([None if value is None else str(value) for value in column.to_pylist()])
