"""What a service for images must bear: files that are none, that are broken, that lie, and that are only unusual."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image

from pictures import encoded, picture

Refusal = tuple[bytes, int, str]
"""A body, and the status and code that it must be refused with."""


def png(width: int, height: int, pixels: bytes = bytes(1000), extra: bytes = b"") -> bytes:
    """A PNG of one bit a pixel that announces any size; `extra` stands before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@cache
def refused() -> Mapping[str, Refusal]:
    """Bodies of one file that must be refused."""
    return {
        "empty": (b"", 400, "empty_body"),
        **{name: (data, 415, "unsupported_image") for name, data in _no_images().items()},
        **{name: (data, 413, "too_many_pixels") for name, data in _bombs().items()},
        **{name: (data, 422, "too_many_frames") for name, data in _animations().items()},
        **{name: (data, 422, "unreadable_image") for name, data in {**_broken(), **_laborious()}.items()},
    }


@cache
def unusual() -> Mapping[str, bytes]:
    """Files that are to be answered, and as they would have been in training."""
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    alpha = picture(1).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((64, 64)))
    jpeg = encoded(picture(2))
    return {
        "jpeg": jpeg,
        "png": encoded(picture(2), "PNG"),
        "webp": encoded(picture(2), "WEBP"),
        "bmp": encoded(picture(2), "BMP"),
        "cmyk": encoded(picture(3).convert("CMYK")),
        "16 bits": encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        "palette": encoded(picture(4).quantize(16), "PNG"),
        "alpha": encoded(alpha, "PNG"),
        "grey": encoded(picture(5).convert("L"), "PNG"),
        "1 bit": encoded(picture(6).convert("1"), "PNG"),
        "turned": encoded(picture(7, 96, 64), exif=exif),
        "1 pixel": encoded(Image.new("RGB", (1, 1), (200, 10, 10)), "PNG"),
        "jpeg and zip": jpeg + _zip(),
        "jpeg and html": jpeg + b"<html><script>alert(1)</script></html>",
    }


def _no_images() -> dict[str, bytes]:
    return {
        "text": b"this is no image\n" * 20,
        "one byte": b"\xff",
        "url": b"http://169.254.169.254/latest/meta-data/",
        "file url": b"file:///etc/passwd",
        "path": b"/etc/passwd",
        "json": b'{"image": "http://127.0.0.1/x.png"}',
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "pdf with jpeg": b"%PDF-1.4\n" + encoded(picture(8)),
        "gif": encoded(picture(9), "GIF"),
        "gif and script": b"GIF89a/*" + bytes(20) + b"*/=alert(1)",
        "tiff": encoded(picture(9), "TIFF"),
        "float tiff": encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"),
        "ico": encoded(picture(9), "ICO"),
        "zip": _zip(),
        "wave": b"RIFF\x24\0\0\0WAVEfmt " + bytes(24),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    }


def _bombs() -> dict[str, bytes]:
    row = (13_000 + 7) // 8 + 1
    return {
        "13,000 square of 1 bit": png(13_000, 13_000, bytes(13_000 * row)),
        "50,000 square": png(50_000, 50_000),
        "large bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + _bmp_header(60_000, 60_000) + bytes(99),
    }


def _bmp_header(width: int, height: int, bits: int = 24, compression: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)


def _animations() -> dict[str, bytes]:
    more = [picture(11), picture(12)]
    return {
        "animated png": encoded(picture(10), "PNG", save_all=True, append_images=more),
        "animated webp": encoded(picture(10), "WEBP", save_all=True, append_images=more),
    }


def _broken() -> dict[str, bytes]:
    jpeg, whole_png, webp = encoded(picture(13)), encoded(picture(13), "PNG"), encoded(picture(13), "WEBP")
    return {
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "truncated png": whole_png[: len(whole_png) // 2],
        "truncated webp": webp[: len(webp) // 2],
        "truncated bmp": encoded(picture(13), "BMP")[:500],
        "signature of jpeg": b"\xff\xd8\xff",
        "signature of png": b"\x89PNG\r\n\x1a\n",
        "signature of webp": b"RIFF\x10\0\0\0WEBP",
        "signature of bmp": b"BM",
        "jpeg that is html": b"\xff\xd8\xff<html><script>alert(1)</script></html>",
        "no pixels": png(0, 0),
        "png with a bomb of text": png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
        "png with a cut animation": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 8, b"acTL"),
    }


def _laborious() -> dict[str, bytes]:
    """Small files that would keep a decoder busy for long."""
    progressive = encoded(Image.new("L", (7000, 7000), 90), progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    jpeg = encoded(picture(14))
    exif = b"\xff\xe1" + struct.pack(">H", 16) + b"Exif\0\0" + bytes(8)
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 10), 9))
    run_lengths = b"BM" + struct.pack("<IHHI", 54, 0, 0, 1078) + _bmp_header(4000, 4000, 8, 1) + bytes(1024)
    return {
        "jpeg of many scans": progressive[:-2] + scan * 2000 + progressive[-2:],
        "jpeg of many exif blocks": jpeg[:2] + exif * 20_000 + jpeg[2:],
        "png of many profiles": png(8, 8, extra=profile * 300),
        "png of profiles behind its pixels": png(8, 8)[:-12] + profile * 300 + png(8, 8)[-12:],
        "bmp of many runs": run_lengths + b"\x01\x05" * 100_000,
    }


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../x.py", "print()")
    return buffer.getvalue()
