"""From the bytes of an image file to the pixels that a model sees: the one way for ingest, evaluation and serving.

What every picture goes through, in this order:

1. The format is told from the content: JPEG, PNG, WebP, BMP, TIFF or GIF. No other decoder ever runs.
2. The size that the header announces is checked before anything is decoded. Truncated files are refused.
3. JPEG is decoded at a reduced scale (libjpeg's DCT scaling) that keeps at least twice the wanted size.
4. Everything becomes 8-bit grey or RGB, on purpose:
   - 16-bit grey: level / 257, rounded. 12-bit TIFF is widened to 16 first. 16-bit RGB: Pillow's upper byte.
   - 32-bit integers: taken as 16-bit if all are within 0 to 65,535, else refused.
   - Floats: 0 to 1 becomes 0 to 255; NaN and anything outside is refused.
   - Palette, 1-bit, YCbCr and CMYK: converted. CMYK JPEG is read as Adobe writes it (inverted). Lab is refused.
   - Alpha, also a transparent palette entry or colour: composited on white.
   - Of an animation, or a file of many pages, the first picture. ICC profiles are ignored: values are taken as sRGB.
5. The picture is resized with antialiasing (bilinear, support scaled), and then turned as its EXIF orientation asks.
6. Grey is repeated into three channels; `pad` fills up with black.

Numpy and Pillow only: the service imports this module.
"""

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

VERSION = 1
"""Raised whenever the same bytes would give other pixels: what was decoded under another version is stale."""

MAX_PIXELS = 100_000_000

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

Fit = Literal["squash", "crop", "pad"]

Box = tuple[float, float, float, float]

# Pillow warns about odd metadata (EXIF, APNG), which decides nothing here; a file's fate must not hang on who listens.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Unreadable(ValueError):
    """Bytes that do not become pixels; `reason` is a short sentence that depends on the bytes alone."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Geometry:
    """The square that every picture becomes: `size` pixels a side; `fit` is what happens to one that is no square.

    `squash` stretches it, `crop` keeps the central square, `pad` keeps all of it and adds black.
    """

    size: int
    fit: Fit = "squash"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture and what its original was."""

    pixels: np.ndarray
    """uint8 [size, size, 3], RGB, writable."""
    width: int
    """Of the original in pixels, as displayed: after its EXIF orientation."""
    height: int
    mode: str
    """Pillow's mode of the original: RGB, L, CMYK, I;16, …"""
    format: str
    """One of `FORMATS`."""
    image: Image.Image = field(repr=False, compare=False)
    """`pixels` as Pillow has them."""


def decode(data: bytes, geometry: Geometry, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of an image file: uint8 [size, size, 3], RGB.

    Raises:
        Unreadable: `data` is empty, of another format, truncated, broken, announces more than `max_pixels`, or holds
            values that have no deliberate meaning as RGB.
    """
    return inspect(data, geometry, max_pixels).pixels


def inspect(data: bytes, geometry: Geometry, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Like `decode`, with what the original was."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: truncated files would pass as whole")
    format_name, plugin = _format_of(data)
    if format_name == "PNG" and _PNG_END not in data:  # Pillow stops reading when the pixels are complete
        raise Unreadable("broken or truncated PNG")
    try:
        return _inspect(plugin(BytesIO(data)), format_name, geometry, max_pixels)
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable("more pixels announced than Pillow allows") from error
    except MemoryError as error:
        raise Unreadable("needs more memory than there is") from error
    except Exception as error:  # Pillow's decoders raise nearly everything on hostile bytes
        raise Unreadable(f"broken or truncated {format_name}") from error


_PNG_END = b"IEND\xaeB`\x82"

Plugin = Callable[[BytesIO], ImageFile.ImageFile]

# The plugins themselves rather than Image.open: it would warn of large pictures by a global limit that threads share,
# and turn a JPEG with a second picture behind it into a format of its own.
_SIGNATURES: tuple[tuple[bytes, str, Plugin], ...] = (
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"RIFF", "WEBP", WebPImagePlugin.WebPImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    (b"II*\0", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"II+\0", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM\0+", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"GIF87a", "GIF", GifImagePlugin.GifImageFile),
    (b"GIF89a", "GIF", GifImagePlugin.GifImageFile),
)


def _format_of(data: bytes) -> tuple[str, Plugin]:
    if not data:
        raise Unreadable("empty file")
    for signature, format_name, plugin in _SIGNATURES:
        if data[: len(signature)] == signature and (signature != b"RIFF" or data[8:12] == b"WEBP"):
            return format_name, plugin
    raise Unreadable("no image: neither JPEG, PNG, WebP, BMP, TIFF nor GIF by its content")


def _inspect(image: ImageFile.ImageFile, format_name: str, geometry: Geometry, max_pixels: int) -> Decoded:
    width, height = image.size
    if width * height > max_pixels:
        raise Unreadable(f"{width} x {height} pixels announced, more than the {max_pixels:,} allowed")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _covered(image) < width * height:
        raise Unreadable("broken or truncated TIFF")  # Pillow leaves what no strip holds black
    mode = image.mode
    drafted = image.draft(mode, _draft_size(image.size, geometry))
    image.load()
    if drafted is None:  # loading a TIFF turns it
        width, height = image.size
    box = drafted[1] if drafted else (0, 0, width, height)
    small = _resized(_eight_bit(image), geometry, box)
    orientation = _orientation(image.info.get("exif", b""))
    if orientation in _TURNS:
        small = small.transpose(_TURNS[orientation])
    if orientation >= 5:
        width, height = height, width
    square = _square(small, geometry)
    return Decoded(np.array(square), width, height, mode, format_name, square)


def _covered(image: ImageFile.ImageFile) -> int:
    """Pixels that the parts of the file hold, those of every plane."""
    boxes = (tile.extents for tile in image.tile if tile.extents)
    return sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)


def _draft_size(size: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """What a reduced decode must not go below: twice the result, so that resizing still has pixels to average."""
    wide, high = _content_size(*size, geometry)
    return 2 * wide, 2 * high


def _content_size(width: float, height: float, geometry: Geometry) -> tuple[int, int]:
    """Width and height of the picture inside the square."""
    if geometry.fit != "pad":
        return geometry.size, geometry.size
    scale = geometry.size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Image.Image, geometry: Geometry, box: Box) -> Image.Image:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if geometry.fit == "crop":
        side = min(width, height)
        left, top = left + (width - side) / 2, top + (height - side) / 2
        box = (left, top, left + side, top + side)
    size = _content_size(width, height, geometry)
    return image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


def _square(image: Image.Image, geometry: Geometry) -> Image.Image:
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if rgb.size == (geometry.size, geometry.size):
        return rgb
    canvas = Image.new("RGB", (geometry.size, geometry.size))
    canvas.paste(rgb, ((geometry.size - rgb.width) // 2, (geometry.size - rgb.height) // 2))
    return canvas


def _eight_bit(image: ImageFile.ImageFile) -> Image.Image:
    """The loaded image as one of mode L or RGB, at its full size."""
    mode = image.mode
    if mode.startswith("I;16"):
        return Image.fromarray(_from_16_bit(np.asarray(image).astype(np.uint16), image))
    if mode == "I":
        return Image.fromarray(_from_16_bit(_within(np.asarray(image), 65535).astype(np.uint16), image))
    if mode == "F":
        levels = np.rint(_within(np.asarray(image), 1) * 255).astype(np.uint8)
        return Image.fromarray(~levels if _zero_is_white(image) else levels)
    if image.has_transparency_data:
        return _on_white(image)
    if mode in ("L", "RGB"):
        return image
    if mode in ("1", "P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("L" if mode == "1" else "RGB")
    raise Unreadable(f"colour mode {mode} is not supported")


def _within(values: np.ndarray, highest: float) -> np.ndarray:
    if not bool(((values >= 0) & (values <= highest)).all()):  # NaN fails both comparisons
        raise Unreadable(f"{values.dtype} pixels that are NaN or outside 0 to {highest:,}")
    return values


def _from_16_bit(levels: np.ndarray, image: ImageFile.ImageFile) -> np.ndarray:
    """uint16 [h, w] to uint8 [h, w]: round(level / 257), in arithmetic that stays within 16 bits."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_BITS_PER_SAMPLE) == (12,):
        levels = (levels << 4) | (levels >> 8)
    if _zero_is_white(image):
        levels = ~levels
    upper, lower = levels >> 8, levels & 255
    grey: np.ndarray = (upper + (lower > upper + 128) - (upper > lower + 128)).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        grey[levels == transparent] = 255
    return grey


_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


def _zero_is_white(image: ImageFile.ImageFile) -> bool:
    """Whether a TIFF counts from white to black; Pillow turns that round for 8 bits and fewer only."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and bool(image.tag_v2.get(_PHOTOMETRIC) == 0)


def _on_white(image: Image.Image) -> Image.Image:
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    canvas = Image.new("RGB", rgba.size, (255, 255, 255))
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _SHORT = 0x0112, 3


def _orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 (as stored) where there is none or none that makes sense.

    Pillow turns a TIFF itself while loading, and hands on no EXIF block for it.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        start = struct.unpack_from(f"{order}I", tiff, 4)[0]
        entries = struct.unpack_from(f"{order}H", tiff, start)[0]
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
            if tag == _ORIENTATION and kind == _SHORT:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
