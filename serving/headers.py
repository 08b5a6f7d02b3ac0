"""What the bytes of an image file tell before it is decoded: what it is, how many pictures, and what it would cost.

A decoder cannot be interrupted, so what would keep one busy for long must not reach it. Each bound here is for work
that a file can ask for out of proportion to its size; no camera or program writes files that come near.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Cost:
    """What decoding a file takes at its peak."""

    pixels: int
    """Width x height by the header."""
    bytes_a_pixel: float
    """Of memory; less than one for a JPEG that is decoded at a reduced scale."""
    fixed: int
    """Bytes, whatever the number of pixels."""

    @property
    def total(self) -> int:
        """Bytes."""
        return round(self.pixels * self.bytes_a_pixel) + self.fixed


def cost(data: bytes, size: int) -> Cost:
    """What `assay.preprocess` will take to bring a file down to squares of `size` pixels; nothing if it cannot open it.

    The numbers are how Pillow and the libraries below it work; a test holds them against measured ones.
    """
    opener = _opener(data)
    try:
        image = opener(BytesIO(data)) if opener else None
    except Exception:  # Pillow's plugins raise nearly everything on hostile bytes
        image = None
    if image is None:
        return Cost(0, 0, 0)
    small = _LEAST + _SMALL * size**2
    pixels = image.width * image.height
    if image.format == "WEBP":  # it copies the file, and keeps two canvases for animations that there are none of
        return Cost(pixels, 21 if image.has_transparency_data else 16, small + len(data))
    if image.format == "JPEG":
        whole = 0 if _in_one_pass(image, data) else 2 * len(image.getbands())  # coefficients, 16 bits each
        image.draft(image.mode, (2 * size, 2 * size))
        return Cost(pixels, whole + _loaded(image) * image.width * image.height / max(pixels, 1), small)
    return Cost(pixels, _loaded(image), small)


_LEAST = 2_000_000
"""Bytes that a decoder's own buffers take, whatever the file."""
_SMALL = 48
"""Bytes for each pixel of the result: of the copies, three times as wide and high, that lead to it."""
_BYTES = {"1": 2, "L": 1, "P": 5, "RGB": 4, "CMYK": 8}
"""For each pixel: of the picture as Pillow loads it, and of the one in RGB or grey that is made of it beside it."""
_TRANSPARENT = 9
"""RGBA, the canvas behind it and the mask between, beside the picture as it is loaded."""
_DEEP = 16
"""More than 8 bits: what numpy makes of them step by step."""


def _loaded(image: ImageFile.ImageFile) -> int:
    if image.mode not in ("RGBA", "LA", *_BYTES):
        return _DEEP
    if image.has_transparency_data:
        return _TRANSPARENT + (1 if image.mode in ("1", "L", "P") else 4)
    return _BYTES[image.mode]


def _in_one_pass(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether libjpeg gets by without the coefficients of the whole JPEG: by its first scan, as libjpeg decides it."""
    assert image.fp is not None
    end = image.fp.tell()  # Pillow stops behind the header of the first scan
    starts = {n: b"\xff\xda" + struct.pack(">HB", 2 * n + 6, n) for n in (1, 2, 3, 4)}
    components = next((n for n, start in starts.items() if data.startswith(start, end - 2 * n - 8)), 0)
    return "progressive" not in image.info and components == len(image.getbands())


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
