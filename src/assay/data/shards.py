"""Shards: the decoded pixels of many images in one `.npy` file, uint8 [n, s, s, 3], of bounded size.

Images are read by their place in the file rather than through a memory map: as fast (both copy from the page cache),
but the pages do not count as the process's memory, and a file cut short under a running training is an error that says
so where a map would kill the process. Any reader of `.npy` files can map them all the same.
"""

import os
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import DataError

SHARD_BYTES = 256 * 2**20

HEADER_BYTES = 128

_MOST_ROWS = 16_384
"""Of small images too, a finished shard should come often: it is what an interrupted scan keeps."""

_MOST_OPEN = 192
"""Each open shard holds a file descriptor, and a process may have no more than 256 of them on some systems."""


def image_bytes(size: int) -> int:
    """Bytes of one image of `size` pixels a side."""
    return size * size * 3


def capacity(size: int, shard_bytes: int = SHARD_BYTES) -> int:
    """How many images of `size` pixels a side a shard holds at most; at least one."""
    return max(1, min(_MOST_ROWS, (shard_bytes - HEADER_BYTES) // image_bytes(size)))


def header(rows: int, size: int) -> bytes:
    """The first `HEADER_BYTES` of a shard of `rows` images: version 1.0 of the .npy format."""
    buffer = BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size, 3)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    assert buffer.tell() == HEADER_BYTES
    return buffer.getvalue()


def file_bytes(rows: int, size: int) -> int:
    """Size of a whole shard of `rows` images."""
    return HEADER_BYTES + rows * image_bytes(size)


def write_image(descriptor: int, row: int, pixels: np.ndarray) -> None:
    """Put uint8 [s, s, 3] `pixels` at `row` of a shard that is being written.

    Raises:
        OSError: of the file system, such as no space left.
    """
    data = np.ascontiguousarray(pixels).reshape(-1).data
    start = HEADER_BYTES + row * len(data)
    written = 0
    while written < len(data):  # a nearly full disk takes a part, and refuses the next write
        written += os.pwrite(descriptor, data[written:], start + written)


def seal(partial: Path, target: Path, rows: int, size: int) -> None:
    """Give `partial`, in which images were put, its header and its size, and make it the shard `target`.

    Raises:
        OSError: of the file system.
    """
    with partial.open("r+b") as file:
        file.truncate(file_bytes(rows, size))
        file.write(header(rows, size))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


class Reader:
    """Reads images from the shards of a folder, from any thread. Keeps a bounded number of files open."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._opened = lru_cache(_MOST_OPEN)(self._open)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reader, (self._folder, self._size)  # an open file does not travel to another process

    def read(self, name: str, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Copy the images at `rows` of the shard `name` to `out[places]`; `out` is uint8 [n, s, s, 3], contiguous.

        Raises:
            DataError: the shard is missing, damaged, of another shape, or has no such row.
        """
        shard = self._opened(name)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            shard.read(row, out[place])

    def _open(self, name: str) -> "_Shard":
        return _Shard(self._folder / name, self._size)


class _Shard:
    """One open shard; the file is closed when the last thread that reads it lets go."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            whole = os.fstat(self.descriptor).st_size
            head = os.pread(self.descriptor, HEADER_BYTES, 0)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; scan the source again") from None
        self.rows = max(0, whole - HEADER_BYTES) // image_bytes(size)
        if head != header(self.rows, size):
            raise DataError(f"{path}: no shard of {size} x {size} images, or damaged; remove it and scan again")

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def read(self, row: int, out: np.ndarray) -> None:
        if not 0 <= row < self.rows:
            raise DataError(f"{self.path}: has no row {row}, only {self.rows}; scan the source again")
        wanted = image_bytes(self.size)
        got = os.preadv(self.descriptor, [out.data], HEADER_BYTES + row * wanted)
        if got != wanted:
            raise DataError(f"{self.path}: cut short at row {row}; remove it and scan again")
