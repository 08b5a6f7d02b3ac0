"""What every source has in common: the sample, the protocol, and how paths become labels."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from assay.errors import AssayError, DataError

MAX_FILE_BYTES = 1 << 30
"""A larger file is no picture to train on; it is refused before it is read."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


class Unavailable(AssayError):
    """The source as a whole does not answer: no fault of the sample that was asked for, so the run stops."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture of a source, not yet read."""

    uri: str
    """Relative to the source with `/` between names, such as `Positive/00001.jpg`; or as its list gives it."""
    label: str
    group: str | None
    """Samples of one group must not be split apart; None where the source says nothing."""
    stamp: str
    """Changes whenever the content may have changed, and costs no reading of the content."""


class Source(Protocol):
    """A set of labelled pictures. It can be pickled into worker processes that are fresh (spawned, not forked).

    A source whose reads mostly wait also has `parallel_reads`, the number of threads that should call `read` at a time.
    """

    @property
    def uri(self) -> str:
        """What `open_source` was given."""

    def list(self) -> list[Sample]:
        """All samples, sorted by uri.

        Raises:
            DataError: the source is missing, empty, or not laid out as it must be.
            Unavailable: the store that holds it does not answer.
        """

    def read(self, sample: Sample) -> bytes:
        """The encoded picture.

        Raises:
            DataError: this one sample cannot be read; the message is its reason for quarantine.
            Unavailable: the store that holds it does not answer.
        """

    def close(self) -> None:
        """Let go of files and connections; the source may be used again afterwards."""


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is never part of the data: hidden, or left behind by a desktop."""
    return name.startswith(".") or name.lower() in _JUNK


def readable(name: str) -> str:
    r"""A file name as text that can be written anywhere: bytes that are not UTF-8 become `\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def local_path(uri: str) -> Path:
    """The path that a plain path (`~` allowed) or a file:// URI names."""
    if not uri.startswith("file://"):
        return Path(os.path.expanduser(uri))  # noqa: PTH111 (Path's raises where there is no such user)
    host, _, path = uri.removeprefix("file://").partition("/")
    if host not in ("", "localhost"):
        raise DataError(f"{uri}: names the host {host!r}; a local path has three slashes: file:///…")
    return Path("/" + unquote(path))


def stamp_of(status: os.stat_result) -> str:
    """Stamp of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def read_file(path: str) -> bytes:
    """Content of a regular file.

    Raises:
        DataError: it is missing, no regular file, too large, or not to be opened; the message names no path.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
        check_size(status.st_size)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise DataError("no regular file")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or type(error).__name__}") from error


def check_size(size: int) -> None:
    """Refuse a file that is too large to be a picture (DataError)."""
    if size > MAX_FILE_BYTES:
        raise DataError(f"{size:,} bytes, more than the {MAX_FILE_BYTES:,} that a picture file may have")


def samples_of_tree(source: str, stamps: Mapping[str, str]) -> list[Sample]:
    """Samples of a tree of class folders: the first name of each path is the label.

    Files beside the class folders are left out unless they are pictures by name: those lack a label.

    Args:
        source: the source's URI, for messages.
        stamps: path relative to the class folders' parent, to stamp; junk already left out.

    Raises:
        DataError: there are no class folders, or pictures beside them.
    """
    loose = sorted(path for path in stamps if "/" not in path and looks_like_image(path))
    samples = [Sample(path, path.partition("/")[0], None, stamps[path]) for path in sorted(stamps) if "/" in path]
    if not samples and loose:
        raise DataError(f"{source}: {_some(loose)} in no class folder; make one folder for each class and move them in")
    if not samples:
        raise DataError(f"{source}: no files in class folders; it should hold one folder for each class")
    if loose:
        raise DataError(f"{source}: {_some(loose)} beside the class folders; move them into one, or away")
    return samples


def looks_like_image(path: str) -> bool:
    """Whether the name ends as picture files do. It decides about messages only: the content decides what is one."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def common_folder(paths: Iterable[str]) -> str:
    """The folders that wrap the class folders, as a prefix ending in `/`, or "".

    A folder wraps if it is the only one and holds no pictures itself: archives are often made of a data set's folder.
    """
    prefix, inside = "", list(paths)
    while True:
        tops = {path.partition("/")[0] for path in inside if "/" in path}
        if len(tops) != 1 or any("/" not in path and looks_like_image(path) for path in inside):
            return prefix
        top = f"{tops.pop()}/"
        deeper = [path.removeprefix(top) for path in inside if path.startswith(top)]
        if not any("/" in path for path in deeper) or any(looks_like_image(p) for p in deeper if "/" not in p):
            return prefix
        prefix, inside = prefix + top, deeper


def _some(paths: list[str]) -> str:
    return f"{len(paths):,} picture{'s lie' if len(paths) > 1 else ' lies'} ({paths[0]!r}{', …' * (len(paths) > 1)})"
