"""A zip or tar archive of class folders. No path that an archive gives is ever written to.

Members of a zip and of an uncompressed tar are read in place. A compressed tar is decompressed once, to an uncompressed
one below `.assay/archives/`. Names only ever serve as labels and uris, and every member's CRC is checked when read.
"""

import bz2
import errno
import gzip
import json
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

from assay import digests
from assay.console import progress
from assay.data.sources.base import Sample, Source, check_size, common_folder, is_junk, readable, samples_of_tree
from assay.errors import DataError
from assay.home import subfolder

MAX_MEMBERS = 10_000_000
MAX_TOTAL_BYTES = 1 << 40
"""Of all members of one archive, uncompressed."""
MAX_RATIO = 200
"""Of an archive's uncompressed to its compressed size. Picture files hardly compress; a bomb's ratio nears 1,000."""
FREE_BYTES = 64 << 20
"""An archive that holds no more than this may have any ratio."""

_BLOCK = 1 << 20


def open_archive(uri: str, path: Path) -> Source:
    """The source for an archive; which kind it is its content says, not its name.

    Raises:
        DataError: it is no archive that Assay reads.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise DataError(f"{uri}: cannot be read: {error.strerror or error}") from None
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return ArchiveSource(uri, _Zip(path))
    if start.startswith(tuple(_DECOMPRESSORS)):
        return ArchiveSource(uri, _Tar(path, compressed=True))
    if start[257:262] == b"ustar":
        return ArchiveSource(uri, _Tar(path, compressed=False))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        raise DataError(f"{uri}: Zstandard is not supported; pack it as .tar.gz, or unpack it and give the folder")
    raise DataError(f"{uri}: neither a folder, nor a zip or tar archive, nor a list that ends in .csv or .parquet")


Place = str | tuple[int, int, int]
"""Of a member in its archive: its name as packed (zip), or offset, size and CRC-32 (tar)."""


class _Member(NamedTuple):
    path: str
    stamp: str
    place: Place
    fault: str = ""


class _Contents(Protocol):
    """What the two kinds of archive do in ways of their own. Errors name no archive: the source does that."""

    def members(self) -> list[_Member]: ...
    def read(self, place: Place) -> bytes: ...
    def close(self) -> None: ...


@dataclass
class ArchiveSource:
    """See the package. One folder that wraps the class folders does not count; a uri begins with the class folder."""

    uri: str
    contents: _Contents
    _members: dict[str, _Member] | None = field(default=None, init=False, repr=False)

    def list(self) -> list[Sample]:
        self._members = self._index()
        return samples_of_tree(self.uri, {uri: member.stamp for uri, member in self._members.items()})

    def read(self, sample: Sample) -> bytes:
        if self._members is None:
            self._members = self._index()
        member = self._members.get(sample.uri)
        if member is None or member.fault:
            raise DataError(member.fault if member else "not in the archive")
        return self.contents.read(member.place)

    def close(self) -> None:
        self.contents.close()

    def _index(self) -> dict[str, _Member]:
        try:
            members = self.contents.members()
        except DataError as error:
            raise DataError(f"{self.uri}: {error}") from error
        named: dict[str, _Member] = {}
        for member in members:
            name = _member_name(self.uri, member.path)
            if name in named:
                raise DataError(f"{self.uri}: holds {name!r} twice; pack it anew")
            if name:
                named[name] = member
        prefix = common_folder(named)
        return {name.removeprefix(prefix): member for name, member in named.items() if name.startswith(prefix)}


def _member_name(uri: str, path: str) -> str:
    """The path of a member without empty and `.` parts; "" for junk."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise DataError(f"{uri}: holds the path {readable(path)!r}, which leads out of it; do not trust this archive")
    return "" if any(map(is_junk, parts)) else readable("/".join(parts))


def _check_bounds(members: int, total: int, packed: int) -> None:
    if members > MAX_MEMBERS:
        raise DataError(f"holds {members:,} files, more than the {MAX_MEMBERS:,} allowed")
    if total > _most_bytes(packed):
        raise DataError(f"holds {total:,} bytes in {packed:,}: no pictures can be packed so; give the unpacked folder")


def _most_bytes(packed: int) -> int:
    return min(MAX_TOTAL_BYTES, max(FREE_BYTES, MAX_RATIO * packed))


@dataclass
class _Zip:
    path: Path
    _open: zipfile.ZipFile | None = field(default=None, init=False, repr=False)

    def members(self) -> list[_Member]:
        files = [info for info in self._archive().infolist() if not info.filename.endswith("/")]
        _check_bounds(len(files), sum(info.file_size for info in files), self.path.stat().st_size)
        if any(info.flag_bits & _ENCRYPTED for info in files):
            raise DataError("is encrypted; unpack it with its password and give the folder")
        return [_zip_member(info) for info in files]

    def read(self, place: Place) -> bytes:
        archive = self._archive()
        try:
            return _unzipped(archive, archive.getinfo(str(place)))
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
            raise DataError("broken inside its archive") from error

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _archive(self) -> zipfile.ZipFile:
        if self._open is None:
            try:
                self._open = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise DataError(f"is no whole zip archive ({error}); download or pack it anew") from None
        return self._open


_ENCRYPTED = 1


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    fault = "a symbolic link in an archive" if stat.S_ISLNK(info.external_attr >> 16) else ""
    return _Member(info.filename, f"{info.CRC:08x}-{info.file_size}", info.filename, fault)


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    check_size(info.file_size)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others decompress without bound
        raise DataError("packed by a method other than store or deflate; pack the archive anew")
    with archive.open(info) as member:
        data = member.read(info.file_size)  # a size that was asked for bounds what a lying header makes it decompress
    if len(data) != info.file_size:
        raise DataError("broken inside its archive")
    return data


@dataclass
class _Tar:
    path: Path
    compressed: bool
    _content: Path | None = field(default=None, init=False, repr=False)

    def members(self) -> list[_Member]:
        """The index that an earlier run left, or one pass over the archive."""
        status = self.path.stat()
        key = digests.of_json([_FORMAT, os.path.realpath(self.path), status.st_size, status.st_mtime_ns])
        folder = subfolder("archives") / key
        if not (folder / "index.json").is_file():
            _index_tar(self.path, self.compressed, folder)
        self._content = folder / "content" if self.compressed else self.path
        rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return [_Member(path, stamp, tuple(place), fault) for path, stamp, place, fault in rows]

    def read(self, place: Place) -> bytes:
        offset, size, crc = (int(number) for number in place)
        check_size(size)
        try:
            with (self._content or self.path).open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise DataError(f"its archive cannot be read: {error.strerror or error}") from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise DataError("changed or broken inside its archive since it was listed")
        return data

    def close(self) -> None:
        """Nothing is held open."""


_FORMAT = 1
"""Of what is kept below `.assay/archives/`."""


def _gunzip(raw: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))


_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


def _index_tar(path: Path, compressed: bool, folder: Path) -> None:
    """Write `folder` with the index (and the content of a compressed archive); it appears whole or not at all."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        if compressed:
            _decompress(path, scratch / "content")
        members = _walk_tar(scratch / "content" if compressed else path)
        (scratch / "index.json").write_text(json.dumps(members), encoding="utf-8")
        if not (folder / "index.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except OSError as error:
        if error.errno is None:  # gzip and bzip2 raise bare ones for broken data
            raise DataError(f"is no whole tar archive ({error}); download or pack it anew") from error
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was faster
            raise DataError(f"cannot be indexed in {folder.parent}: {error.strerror}") from error
    except (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"is no whole tar archive ({error}); download or pack it anew") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _decompress(path: Path, content: Path) -> None:
    packed = path.stat().st_size
    left = _most_bytes(packed)
    with path.open("rb") as raw, content.open("wb") as out, _progress("unpack", packed) as reached:
        magic = raw.read(8)
        raw.seek(0)
        stream = next(opener for start, opener in _DECOMPRESSORS.items() if magic.startswith(start))(raw)
        while block := stream.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise DataError(
                    "unpacks to far more than it is: no pictures can be packed so; give the unpacked folder"
                )
            out.write(block)
            reached(raw.tell())


def _walk_tar(path: Path) -> list[_Member]:
    members: list[_Member] = []
    size = path.stat().st_size
    with path.open("rb") as raw, _progress("index", size) as reached:
        tar = tarfile.open(fileobj=raw, mode="r:", encoding="utf-8")  # noqa: SIM115
        for info in tar:
            if not info.isdir():
                members.append(_tar_member(tar, info))
            _check_bounds(len(members), 0, size)
            reached(raw.tell())
        raw.seek(tar.offset)
        if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
            raise tarfile.ReadError("no end, or a broken header")
    return members


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    file = tar.extractfile(info) if info.isreg() and not info.issparse() else None
    if file is None:
        fault = "a link in an archive" if info.issym() or info.islnk() else "no regular file in an archive"
        return _Member(info.name, fault, (0, 0, 0), fault)
    crc = 0
    while block := file.read(_BLOCK):
        crc = zlib.crc32(block, crc)
    return _Member(info.name, f"{crc:08x}-{info.size}", (info.offset_data, info.size, crc))


@contextmanager
def _progress(stage: str, size: int) -> Iterator[Callable[[int], None]]:
    """Progress through a file of `size` bytes; yields the function that is told the place reached."""
    shown = 0
    with progress(stage, size >> 20, "MiB") as advance:

        def reached(place: int) -> None:
            nonlocal shown
            advance((place >> 20) - shown)
            shown = place >> 20

        yield reached
