"""What the bytes of an image file tell before it is decoded: what it is, how many pictures, and what it would cost.

A decoder cannot be interrupted, so what would keep one busy for long must not reach it. Each bound here is for work
that a file can ask for out of proportion to its size; no camera or program writes files that come near.
"""

import struct
from collections.abc import Callable, Iterator
from io import BytesIO

from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

ACCEPTED = "JPEG, PNG, WebP or BMP"

MAX_SCANS = 100
"""Of a JPEG. Each goes over all of the pixels, and takes 75 bytes of the file or fewer; programs write up to 20."""
MAX_EXIF = 100
"""Blocks of EXIF in a JPEG. Pillow appends each to those before it, and copies them all."""
MAX_CHUNKS = 200
"""Of a PNG, those with pixels apart. One of 1 kB may unpack to 1 MB."""

_RUN_LENGTHS = (1, 2)
"""Compressions of BMP that Pillow unpacks in Python, while no other thread gets on."""

Opener = Callable[[BytesIO], ImageFile.ImageFile]

_JPEG, _PNG, _RIFF, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM"

_OPENERS: tuple[tuple[bytes, Opener], ...] = (
    (_JPEG, JpegImagePlugin.JpegImageFile),
    (_PNG, PngImagePlugin.PngImageFile),
    (_RIFF, WebPImagePlugin.WebPImageFile),
    (_BMP, BmpImagePlugin.BmpImageFile),
)


def accepted(data: bytes) -> bool:
    """Whether a file begins as one of `ACCEPTED` does."""
    return _opener(data) is not None


def frames(data: bytes) -> int:
    """Pictures that an animated PNG or WebP announces; 1 for any other file, and for one that is broken."""
    try:
        if data.startswith(_PNG):
            return next((_number(data, at) for name, at in _png_chunks(data) if name == b"acTL"), 1)
        if data.startswith(_RIFF):
            return max(1, sum(name == b"ANMF" for name in _riff_chunks(data)))
    except struct.error:  # truncated
        pass
    return 1


def laborious(data: bytes) -> str | None:
    """Why a file is not worth its decoding; None: it is."""
    if data.startswith(_JPEG):
        # Within coded pixels 0xFF is always followed by 0 or a number of its own, so this finds markers.
        return _more(data.count(b"\xff\xda"), MAX_SCANS, "scans") or _more(
            data.count(b"Exif\0"), MAX_EXIF, "EXIF blocks"
        )
    if data.startswith(_PNG):
        return _more(_chunks(data), MAX_CHUNKS, "chunks")
    if data.startswith(_BMP) and data[30:34] in [struct.pack("<I", kind) for kind in _RUN_LENGTHS]:
        return "a BMP with run-length encoding; save it without"
    return None


def announced(data: bytes) -> tuple[int, int]:
    """Width and height by the header; 0 and 0 where that cannot be read."""
    opener = _opener(data)
    try:
        return opener(BytesIO(data)).size if opener else (0, 0)
    except Exception:  # Pillow's plugins raise nearly everything on hostile bytes
        return 0, 0


def _opener(data: bytes) -> Opener | None:
    for signature, opener in _OPENERS:
        if data.startswith(signature) and (signature != _RIFF or data[8:12] == b"WEBP"):
            return opener
    return None


def _more(count: int, limit: int, what: str) -> str | None:
    return f"more than {limit} {what} in one file; save it anew" if count > limit else None


def _chunks(data: bytes) -> int:
    """Chunks of a PNG that hold no pixels; counted as far as it matters."""
    count = 0
    try:
        for name, _ in _png_chunks(data):
            count += name not in (b"IDAT", b"fdAT", b"fcTL")
            if count > MAX_CHUNKS:
                break
    except struct.error:  # truncated
        pass
    return count


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Name of each chunk, and where its content begins."""
    at = len(_PNG)
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        yield name, at + 8
        at += 12 + length


def _number(data: bytes, at: int) -> int:
    return int(struct.unpack_from(">I", data, at)[0])


def _riff_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        yield name
        at += 8 + length + length % 2
