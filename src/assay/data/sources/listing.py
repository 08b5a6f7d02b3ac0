"""A list of pictures as CSV or Parquet: the columns `uri` and `label`, if wanted `group`, and any others beside.

A uri is an absolute path, `file://…`, `s3://…`, or relative to the list's folder, which it does not climb out of.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from assay.data.sources.base import Sample, local_path, read_file, stamp_of
from assay.data.sources.s3 import PARALLEL_READS, Stores, parse
from assay.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_REQUIRED = ("uri", "label")
_REMOTE = "s3://"


class _Row(NamedTuple):
    where: str
    """As in `line 7`."""
    uri: str
    label: str
    group: str | None


@dataclass
class ListSource:
    """See the package. A row whose file is missing is a sample that `read` refuses: it is quarantined."""

    uri: str
    parallel_reads: int = field(default=1, init=False)
    _stores: Stores = field(default_factory=Stores, init=False, repr=False)

    def list(self) -> list[Sample]:
        try:
            rows = _checked(_rows(self.uri, self._content()))
            places = [_place_of(row, self._folder()) for row in rows]
        except DataError as error:
            raise DataError(f"{self.uri}: {error}") from error
        remote = self._stores.stamps(place for place in places if place.startswith(_REMOTE))
        self.parallel_reads = PARALLEL_READS if remote else 1
        samples = [
            Sample(row.uri, row.label, row.group, _stamp(place, remote))
            for row, place in zip(rows, places, strict=True)
        ]
        return sorted(samples, key=lambda sample: sample.uri)

    def read(self, sample: Sample) -> bytes:
        place = _place(self._folder(), sample.uri)
        if place.startswith(_REMOTE):
            return self._stores.read(place)
        if _is_relative(sample.uri) and not _lies_in(self._folder(), place):
            raise DataError("a symbolic link out of the folder")
        return read_file(place)

    def close(self) -> None:
        self._stores.close()

    def _content(self) -> bytes:
        return self._stores.read(self.uri) if self.uri.startswith(_REMOTE) else read_file(str(local_path(self.uri)))

    def _folder(self) -> str:
        if self.uri.startswith(_REMOTE):
            return self.uri.rpartition("/")[0]
        return str(local_path(self.uri).absolute().parent)


def _is_relative(uri: str) -> bool:
    return not uri.startswith("/") and "://" not in uri


def _lies_in(folder: str, place: str) -> bool:
    return os.path.realpath(place).startswith(f"{os.path.realpath(folder)}/")


def _place(folder: str, uri: str) -> str:
    """Where a row's picture is: an absolute path or an s3:// address."""
    if "\0" in uri:
        raise DataError(f"{uri!r} holds a null character")
    if uri.startswith(_REMOTE) and not parse(uri)[1]:
        raise DataError(f"{uri!r} names a bucket, but no object in it")
    if uri.startswith(("/", _REMOTE)):
        return uri
    if uri.startswith("file://"):
        return str(local_path(uri))
    if "://" in uri:
        raise DataError(f"{uri!r} is neither a path, file:// nor s3://; download it, and list the path")
    if ".." in uri.split("/"):
        raise DataError(f"{uri!r} climbs out of the list's folder; give an absolute path")
    return f"{folder}/{uri}"


def _place_of(row: _Row, folder: str) -> str:
    try:
        return _place(folder, row.uri)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from None


def _stamp(place: str, remote: dict[str, str]) -> str:
    if place.startswith(_REMOTE):
        return remote.get(place, "missing")
    try:
        return stamp_of(os.stat(place))  # noqa: PTH116
    except OSError:
        return "missing"


def _checked(rows: Iterable[_Row]) -> list[_Row]:
    """The rows, each with a uri of its own and a label (DataError)."""
    seen: dict[str, _Row] = {}
    for row in rows:
        if not row.uri.strip() or not row.label.strip():
            raise DataError(
                f"{row.where}: no {'label' if row.uri.strip() else 'uri'}; every row needs a uri and a label"
            )
        if row.uri in seen:
            raise DataError(f"{row.where}: {row.uri!r} stands in {seen[row.uri].where} already; list each picture once")
        seen[row.uri] = row
    if not seen:
        raise DataError("lists no pictures")
    return list(seen.values())


def _rows(uri: str, content: bytes) -> Iterator[_Row]:
    return _parquet_rows(content) if uri.lower().endswith(".parquet") else _csv_rows(content)


def _csv_rows(content: bytes) -> Iterator[_Row]:
    """Rows of a CSV file in UTF-8, with or without a byte order mark. Lines are counted as an editor does."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line}: not UTF-8; save the list as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        columns = _columns(header)
        for fields in reader:
            where = f"line {reader.line_num}"
            if fields and len(fields) != len(header):
                raise DataError(f"{where}: {len(fields)} fields, but the first line names {len(header)} columns")
            if fields:
                uri, label, group = (fields[index] if index is not None else "" for index in columns)
                yield _Row(where, uri, label, group or None)
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}") from None


def _columns(names: list[str]) -> tuple[int, int, int | None]:
    """Places of the columns uri, label and group."""
    missing = [name for name in _REQUIRED if name not in names]
    found = ", ".join(map(repr, names)) or "none"
    if missing:
        raise DataError(
            f"no column {' and no column '.join(missing)} (found: {found}); name uri, label and maybe group"
        )
    if twice := [name for name in (*_REQUIRED, "group") if names.count(name) > 1]:
        raise DataError(f"two columns {twice[0]} (found: {found})")
    return names.index("uri"), names.index("label"), names.index("group") if "group" in names else None


def _parquet_rows(content: bytes) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        _, _, group = _columns(file.schema_arrow.names)
        wanted = [*_REQUIRED, *(["group"] if group is not None else [])]
        start = 1
        for batch in file.iter_batches(columns=wanted):
            texts = [_texts(batch.column(name), name) for name in wanted]
            for number, (uri, label, *rest) in enumerate(zip(*texts, strict=True), start):
                yield _Row(f"row {number}", uri or "", label or "", (rest[0] if rest else None) or None)
            start += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"no whole Parquet file ({' '.join(str(error).split())})") from None


def _texts(column: "pa.Array[Any]", name: str) -> list[str | None]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"column {name} is of type {column.type}; it should be text")
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts
