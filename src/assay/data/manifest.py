"""The manifest: one row a sample, in a `pyarrow.Table`. Its columns, its order, its digests, its file.

Everything here works on whole columns: a million rows take seconds.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assay.errors import DataError

CHANNELS = ("r", "g", "b")

MANIFEST = pa.schema(
    [
        ("uri", pa.string()),  # relative to the source
        ("label", pa.string()),
        ("given_group", pa.string()),  # null where the source gives none
        ("stamp", pa.string()),  # changes when the file may have changed
        ("bytes", pa.int64()),
        ("sha256", pa.string()),  # of the file; "" where it could not be read
        ("phash", pa.uint64()),
        ("width", pa.int32()),  # of the original, in pixels
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("brightness", pa.float32()),  # luminance, 0 to 1
        ("contrast", pa.float32()),
        *((f"sum_{channel}", pa.uint64()) for channel in CHANNELS),  # over the stored pixels
        *((f"sumsq_{channel}", pa.uint64()) for channel in CHANNELS),
        ("fault", pa.string()),  # "" is usable, else why the row is quarantined
        ("shard", pa.string()),  # file name; "" where there are no pixels
        ("row", pa.int32()),
        ("group", pa.string()),  # "" before the split
        ("split", pa.string()),  # train, validation, test; "" before the split and in quarantine
    ]
)

SPLITS = ("train", "validation", "test")

_NULLABLE = ("given_group",)
_CONTENT = ("uri", "label", "given_group", "sha256", "fault")
_SPLIT = ("sha256", "uri", "group", "split")


def build(columns: Mapping[str, Any]) -> pa.Table:
    """A manifest from columns (lists, numpy or Arrow arrays of one length), in the order of a manifest.

    Columns that are not given hold "", 0, or null (given_group); `row` holds -1.
    """
    n = len(next(iter(columns.values())))
    arrays = [
        _array(columns[field.name], field.type) if field.name in columns else _blank(field, n) for field in MANIFEST
    ]
    return ordered(pa.table(arrays, schema=MANIFEST))


def ordered(table: pa.Table) -> pa.Table:
    """`table` by uri; rows of the same uri by label and given group, so that no order of listing shows."""
    keys = [("uri", "ascending"), ("label", "ascending"), ("given_group", "ascending")]
    order = pc.sort_indices(table, sort_keys=keys)
    if np.array_equal(order.to_numpy(), np.arange(len(order))):
        return table  # in order already: no copy of what may be a gigabyte
    return table.take(order).combine_chunks()


def conform(table: pa.Table) -> pa.Table:
    """`table` with exactly the columns and types of `MANIFEST`.

    Raises:
        DataError: a column is missing or of another type, or holds nulls where none may be.
    """
    missing = [name for name in MANIFEST.names if name not in table.column_names]
    if missing:
        raise DataError(f"the manifest lacks the columns {', '.join(missing)}")
    try:
        conformed = table.select(MANIFEST.names).cast(MANIFEST)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"the manifest has a column of another type: {error}") from None
    nulls = [name for name in MANIFEST.names if name not in _NULLABLE and conformed[name].null_count]
    if nulls:
        raise DataError(f"the manifest has nulls in {', '.join(nulls)}")
    return conformed


def labels(table: pa.Table) -> tuple[str, ...]:
    """The sorted class names, quarantined rows included: a class that lost every image must not vanish unseen."""
    return tuple(sorted(pc.unique(table["label"]).to_pylist()))


def content_digest(table: pa.Table) -> str:
    """Digest of what the rows are: uri, label, given group, sha256 and fault. Neither stamps nor places of pixels."""
    return _digest(table, _CONTENT)


def split_digest(table: pa.Table) -> str:
    """Digest of how the rows are split: sha256, uri, group and split."""
    return _digest(table, _SPLIT)


def moments(table: pa.Table, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels/255, over all rows of `table`, `size` pixels a side.

    Exact: integer sums, one division at the end.

    Raises:
        DataError: `table` has no rows.
    """
    n = table.num_rows * size * size
    if not n:
        raise DataError("no image to take mean and standard deviation from")
    sums = [pc.sum(table[f"sum_{channel}"]).as_py() for channel in CHANNELS]
    squares = [pc.sum(table[f"sumsq_{channel}"]).as_py() for channel in CHANNELS]
    means = tuple(total / n / 255 for total in sums)
    return means, tuple(
        (square * n - total * total) ** 0.5 / n / 255 for total, square in zip(sums, squares, strict=True)
    )


def write(table: pa.Table, path: Path) -> None:
    """Write Parquet, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> pa.Table:
    """Read what `write` wrote.

    Raises:
        DataError: the file is missing or no Parquet.
    """
    try:
        return pq.read_table(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from None


def _array(values: Sequence[Any] | np.ndarray | pa.Array, kind: pa.DataType) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def _blank(field: pa.Field, n: int) -> pa.Array:
    if field.name in _NULLABLE:
        return pa.nulls(n, field.type)
    value = "" if field.type == pa.string() else -1 if field.name == "row" else 0
    return pa.repeat(pa.scalar(value, field.type), n)


def _digest(table: pa.Table, columns: Sequence[str]) -> str:
    """SHA-256 over the named columns of strings: of each the lengths (int64, -1 for null), then the characters.

    That says where each value ends, so no two tables give the same bytes; how Arrow has cut it in chunks does not show.
    """
    state = hashlib.sha256(f"assay manifest 1 {table.num_rows} {' '.join(columns)}\n".encode())
    for name in columns:
        column = table[name].cast(pa.large_string())
        lengths = pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), -1)
        state.update(lengths.to_numpy().astype("<i8"))
        for chunk in pc.fill_null(column, "").chunks:
            state.update(_characters(chunk))
    return state.hexdigest()


def _characters(chunk: pa.Array) -> memoryview:
    """The UTF-8 bytes of a large_string array without nulls, end to end."""
    _, offsets, characters = chunk.buffers()
    if len(chunk) == 0 or characters is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int64)[[chunk.offset, chunk.offset + len(chunk)]]
    return memoryview(characters)[int(ends[0]) : int(ends[1])]
