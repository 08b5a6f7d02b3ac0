"""Where the entries of a use case lie: a folder, or a prefix in an S3 bucket (`bucket`).

Either can create an entry if it is absent, as a whole, so that of several writers one wins; nothing is ever replaced.
"""

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assay.errors import DataError, LedgerError
from assay.gate.ledger.bucket import Bucket
from assay.gate.ledger.entries import MAX_BYTES, file_name, number_of

_PREFIX = re.compile(r"[\w.=-]+(/[\w.=-]+)*", re.ASCII)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Store(Protocol):
    """Numbered entries. Every method raises LedgerError where the store does not do what it is asked."""

    @property
    def place(self) -> str:
        """Where they are, for messages."""

    def numbers(self) -> list[int]:
        """Those of all entries, ascending; of one created meanwhile perhaps not."""

    def last(self) -> int:
        """The largest number, 0 if there is none."""

    def read(self, number: int) -> bytes | None:
        """The bytes of an entry; of one larger than `MAX_BYTES` some more than that; None if it is not there."""

    def read_all(self, numbers: Sequence[int]) -> Iterator[bytes | None]:
        """As `read`, one after the other."""

    def create(self, number: int, data: bytes) -> bool:
        """Write an entry, as a whole and for good; False if there is one of this number."""


@dataclass(frozen=True)
class Folder:
    """Entries as files. One appears by a hard link to a file that is whole and on the disk.

    What a killed writer leaves is a hidden file, which nobody reads.
    """

    path: Path

    @property
    def place(self) -> str:
        return str(self.path)

    def numbers(self) -> list[int]:
        with self._plainly("read"):
            try:
                names = os.listdir(self.path)  # noqa: PTH208 (names are all that is needed)
            except FileNotFoundError:
                return []
        return sorted(number for name in names if (number := number_of(name)) is not None)

    def last(self) -> int:
        return max(self.numbers(), default=0)

    def read(self, number: int) -> bytes | None:
        return next(self.read_all([number]))

    def read_all(self, numbers: Sequence[int]) -> Iterator[bytes | None]:
        with self._plainly("read"):
            for number in numbers:
                yield _content(f"{self.path}/{file_name(number)}")

    def create(self, number: int, data: bytes) -> bool:
        with self._plainly("written"):
            self.path.mkdir(parents=True, exist_ok=True)
            partial = self.path / f".{file_name(number)}.{os.getpid()}.{secrets.token_hex(4)}.partial"
            try:
                _write(partial, data)
                os.link(partial, self.path / file_name(number))
            except FileExistsError:
                return False
            finally:
                partial.unlink(missing_ok=True)
            _to_disk(self.path)
        return True

    def folders(self) -> list[str]:
        """Names of the folders in it."""
        with self._plainly("read"):
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir()) if self.path.is_dir() else []

    @contextmanager
    def _plainly(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "; does its file system allow hard links?" * (error.errno in _NO_LINKS)
            reason = error.strerror or type(error).__name__
            raise LedgerError(f"{self.path}: the ledger cannot be {done}: {reason}{hint}") from error


def open_store(root: str, use_case: str) -> Store:
    """The place of a use case's entries below a folder or `s3://bucket/prefix`.

    Raises:
        LedgerError: `root` is neither.
    """
    return _open(root, f"/{use_case}")


def folders(root: str) -> list[str]:
    """Names of what may be ledgers below a root, as `open_store` takes it.

    Raises:
        LedgerError: it is no place for ledgers, or cannot be read.
    """
    return _open(root, "").folders()


def _open(root: str, below: str) -> Folder | Bucket:
    if "://" not in root:
        return Folder(Path(os.path.expanduser(root) + below).absolute())  # noqa: PTH111 (Path's can raise)
    if not root.startswith("s3://"):
        raise LedgerError(f"{root}: no place for a ledger; give a folder, or s3://bucket/prefix")
    from assay.data.sources.s3 import parse

    try:
        _, prefix = parse(root.rstrip("/"))
    except DataError as error:
        raise LedgerError(str(error)) from None
    if prefix and not _PREFIX.fullmatch(prefix):
        raise LedgerError(f"{root}: no place for a ledger; let its prefix be of letters, digits and . _ - =")
    return Bucket(f"{root.rstrip('/')}{below}")


def _content(path: str) -> bytes | None:
    """The beginning of a file, as much as an entry can have and one byte more; None if there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening a pipe would wait for a writer
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _to_disk(folder: Path) -> None:
    """So that a file's name, too, outlives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that does this by itself or not at all
            raise
    finally:
        os.close(descriptor)
