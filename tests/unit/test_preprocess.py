"""Every kind of image file becomes RGB in one deliberate way, or is refused with a reason."""

import io
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from assay.preprocess import FORMATS, Decoded, Geometry, Unreadable, decode, inspect

CORNERS = ((200, 40, 20), (30, 180, 60), (40, 50, 210), (230, 220, 90))
"""Colours of the quadrants of the test picture, row by row."""

SQUARE = Geometry(32)

# The module ignores these itself, but pytest begins every test with its own filters.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")


def quadrants(colours: tuple[tuple[int, ...], ...] = CORNERS, width: int = 64, height: int = 64) -> Image.Image:
    small = np.array(colours, np.uint8).reshape(2, 2, -1)
    pixels = small.repeat(height // 2, axis=0).repeat(width // 2, axis=1)
    return Image.fromarray(pixels.squeeze())


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quadrants."""
    near, far = pixels.shape[0] // 4, 3 * pixels.shape[0] // 4
    return [tuple(int(v) for v in pixels[y, x]) for y in (near, far) for x in (near, far)]


def assert_corners(pixels: np.ndarray, expected: tuple[tuple[int, ...], ...], tolerance: int = 0) -> None:
    difference = np.abs(np.array(corners(pixels)) - np.array(expected))
    assert difference.max() <= tolerance, (corners(pixels), expected)


def grey(*levels: int) -> tuple[tuple[int, ...], ...]:
    return tuple((level,) * 3 for level in levels)


def reason(data: bytes, geometry: Geometry = SQUARE, max_pixels: int = 100_000_000) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(data, geometry, max_pixels)
    assert caught.value.reason == str(caught.value)
    return caught.value.reason


# ---- formats


@pytest.mark.parametrize(
    ("format_name", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 6),
        ("TIFF", {"big_tiff": True}, 0),
        ("GIF", {}, 0),
    ],
)
def test_formats(format_name: str, options: dict[str, object], tolerance: int) -> None:
    found = inspect(encoded(quadrants(), format_name, **options), SQUARE)
    assert_corners(found.pixels, CORNERS, tolerance)
    assert found.format == format_name


def test_result_is_writable_contiguous_uint8_rgb() -> None:
    pixels = decode(encoded(quadrants(), "PNG"), Geometry(48))
    assert (pixels.shape, pixels.dtype) == ((48, 48, 3), np.uint8)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


def test_what_the_original_was() -> None:
    found = inspect(encoded(quadrants(width=80, height=40), "PNG"), SQUARE)
    assert (found.width, found.height, found.mode, found.format) == (80, 40, "RGB", "PNG")


@pytest.mark.parametrize("format_name", ["ICO", "PPM", "TGA", "SGI", "PCX", "JPEG2000", "EPS", "PDF", "DIB", "AVIF"])
def test_other_formats_are_refused_though_pillow_reads_them(format_name: str) -> None:
    assert reason(encoded(quadrants(), format_name)).startswith("no image: neither JPEG")


@pytest.mark.parametrize(
    "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"RIFF\0\0\0\0WAVEfmt ", b"\xff\xd8", b"GIF88a"]
)
def test_what_is_no_image(data: bytes) -> None:
    assert reason(data).startswith("no image")


def test_empty_file() -> None:
    assert reason(b"") == "empty file"


def test_one_pixel_is_an_image() -> None:
    pixels = decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), SQUARE)
    assert (pixels == (9, 8, 7)).all()


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_slivers(fit: str, size: tuple[int, int]) -> None:
    pixels = decode(encoded(Image.new("L", size, 200), "PNG"), Geometry(16, fit))  # type: ignore[arg-type]
    assert pixels.shape == (16, 16, 3)


# ---- modes


def test_grey() -> None:
    levels = (0, 90, 180, 255)
    pixels = decode(encoded(quadrants(tuple((v,) for v in levels)), "PNG"), SQUARE)
    assert_corners(pixels, grey(*levels))


def test_one_bit() -> None:
    image = quadrants(((0,), (255,), (255,), (0,))).convert("1")
    assert_corners(decode(encoded(image, "PNG"), SQUARE), grey(0, 255, 255, 0))


def test_palette() -> None:
    found = inspect(encoded(quadrants().quantize(4), "PNG"), SQUARE)
    assert_corners(found.pixels, CORNERS, 2)
    assert found.mode == "P"


def test_palette_is_resized_as_colours_not_as_indices() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2
    image = Image.fromarray(checks.astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0, *[255, 0, 0] * 254])
    assert_corners(decode(encoded(image, "PNG"), Geometry(8)), grey(127, 127, 127, 127), 2)


def test_cmyk_jpeg_is_inverted_as_adobe_does() -> None:
    found = inspect(encoded(quadrants().convert("CMYK"), "JPEG", quality=95, subsampling=0), SQUARE)
    assert_corners(found.pixels, CORNERS, 5)
    assert found.mode == "CMYK"


def test_cmyk_tiff() -> None:
    assert_corners(decode(encoded(quadrants().convert("CMYK"), "TIFF"), SQUARE), CORNERS, 1)


def test_ycck_jpeg() -> None:
    """The Adobe segment says transform 2 (YCCK): only the decoder's reading of the same bytes changes."""
    cmyk = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 128)), "JPEG", quality=100, subsampling=0)
    at = cmyk.index(b"Adobe") + 11
    ycck = cmyk[:at] + b"\x02" + cmyk[at + 1 :]
    plain, turned = decode(cmyk, SQUARE), decode(ycck, SQUARE)
    assert np.abs(plain.astype(int) - 127).max() <= 2
    assert turned.shape == plain.shape
    assert not np.array_equal(plain, turned)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_alpha_is_composited_on_white(mode: str, format_name: str) -> None:
    image = Image.new(mode, (16, 16), (0,) * (len(mode) - 1) + (64,))
    assert_corners(decode(encoded(image, format_name), SQUARE), grey(191, 191, 191, 191), 1)


def test_colours_under_full_transparency_do_not_bleed() -> None:
    image = quadrants().convert("RGBA")
    image.putalpha(quadrants(((255,), (0,), (0,), (255,))))
    white = (255, 255, 255)
    assert_corners(decode(encoded(image, "WEBP", lossless=True), SQUARE), (CORNERS[0], white, white, CORNERS[3]))


def test_transparent_palette_entry_is_white() -> None:
    image = quadrants().quantize(4)
    hidden = image.getpixel((0, 0))
    pixels = decode(encoded(image, "PNG", transparency=hidden), SQUARE)
    assert_corners(pixels, ((255, 255, 255), *CORNERS[1:]), 2)


def test_palette_with_degrees_of_transparency() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0])
    assert_corners(decode(encoded(image, "PNG", transparency=bytes([64])), SQUARE), grey(191, 191, 191, 191), 1)


def test_transparent_colour_of_rgb_and_grey() -> None:
    rgb = decode(encoded(quadrants(), "PNG", transparency=CORNERS[2]), SQUARE)
    assert_corners(rgb, (*CORNERS[:2], (255, 255, 255), CORNERS[3]))
    levels = decode(encoded(quadrants(((10,), (20,), (30,), (40,))), "PNG", transparency=20), SQUARE)
    assert_corners(levels, grey(10, 255, 30, 40))


def sixteen(levels: tuple[int, ...], dtype: str = "<u2") -> np.ndarray:
    return np.array(levels, dtype).reshape(2, 2).repeat(32, axis=0).repeat(32, axis=1)


LEVELS_16 = (0, 257 * 77, 257 * 200 + 128, 65535)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257_and_rounded(format_name: str) -> None:
    found = inspect(encoded(Image.fromarray(sixteen(LEVELS_16)), format_name), SQUARE)
    assert_corners(found.pixels, grey(0, 77, 200, 255))
    assert found.mode == "I;16"


def test_every_sixteen_bit_level() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode(encoded(Image.fromarray(levels), "PNG"), Geometry(256))
    assert np.array_equal(pixels[..., 0], np.rint(levels / 257).astype(np.uint8))


def test_sixteen_bit_big_endian_tiff() -> None:
    image = Image.frombytes("I;16B", (64, 64), sixteen(LEVELS_16, ">u2").tobytes())
    found = inspect(encoded(image, "TIFF"), SQUARE)
    assert_corners(found.pixels, grey(0, 77, 200, 255))


def tagged(image: Image.Image, **tags: int) -> bytes:
    """A TIFF of `image` with tags replaced afterwards, such as `photometric=0`."""
    numbers = {"photometric": 262, "orientation": 274, "height": 257, "rows_per_strip": 278}
    data = bytearray(encoded(image, "TIFF", tiffinfo={274: 1}))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        for name, value in tags.items():
            if tag == numbers[name]:
                struct.pack_into("<H", data, at + 8, value)
    return bytes(data)


def test_tiff_that_counts_from_white() -> None:
    sixteen_bit = tagged(Image.fromarray(sixteen(LEVELS_16)), photometric=0)
    assert_corners(decode(sixteen_bit, SQUARE), grey(255, 178, 55, 0))
    eight_bit = tagged(quadrants(((0,), (60,), (200,), (255,))), photometric=0)
    assert_corners(decode(eight_bit, SQUARE), grey(255, 195, 55, 0))
    floats = tagged(Image.fromarray(np.full((4, 4), 0.25, np.float32)), photometric=0)
    assert_corners(decode(floats, SQUARE), grey(191, 191, 191, 191))


def test_twelve_bit_tiff_is_widened_first() -> None:
    rows = bytes.fromhex("fff000") * 2 + bytes.fromhex("109400") * 2
    data = bytearray(encoded(Image.fromarray(np.zeros((2, 4), np.uint16)), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    strip = 0
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag == 258:
            struct.pack_into("<H", data, at + 8, 12)
        if tag == 273:
            (strip,) = struct.unpack_from("<I", data, at + 8)
    data[strip : strip + len(rows)] = rows
    pixels = decode(bytes(data), Geometry(4, "pad"))
    assert pixels[1, :, 0].tolist() == [255, 0, 255, 0]
    assert pixels[2, :, 0].tolist() == [17, 64, 17, 64]


def test_sixteen_bit_grey_with_a_transparent_level() -> None:
    data = encoded(Image.fromarray(sixteen(LEVELS_16)), "PNG")
    header_end = data.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", LEVELS_16[1])
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    assert_corners(decode(data[:header_end] + chunk + data[header_end:], SQUARE), grey(0, 255, 200, 255))


def test_sixteen_bit_rgb_keeps_the_upper_byte() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 0x12FF, 0x8000, 0xFFFF) * 4 for _ in range(4))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (decode(data, Geometry(4)) == (0x12, 0x80, 0xFF)).all()


def test_thirty_two_bit_integers_are_taken_as_sixteen() -> None:
    found = inspect(encoded(Image.fromarray(sixteen(LEVELS_16).astype(np.int32)), "TIFF"), SQUARE)
    assert_corners(found.pixels, grey(0, 77, 200, 255))
    assert found.mode == "I"


@pytest.mark.parametrize("level", [-1, 65536, 2**31 - 1])
def test_other_integers_are_refused(level: int) -> None:
    image = Image.fromarray(np.full((4, 4), level, np.int32))
    assert reason(encoded(image, "TIFF")) == "int32 pixels that are NaN or outside 0 to 65,535"


def test_floats_from_0_to_1() -> None:
    levels = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32).repeat(32, axis=0).repeat(32, axis=1)
    assert_corners(decode(encoded(Image.fromarray(levels), "TIFF"), SQUARE), grey(0, 64, 128, 255))


@pytest.mark.parametrize("level", [float("nan"), float("inf"), -0.01, 1.01, 200.0])
def test_other_floats_are_refused(level: float) -> None:
    levels = np.zeros((8, 8), np.float32)
    levels[3, 3] = level
    assert reason(encoded(Image.fromarray(levels), "TIFF")) == "float32 pixels that are NaN or outside 0 to 1"


def test_ycbcr_tiff() -> None:
    assert_corners(decode(encoded(quadrants().convert("YCbCr"), "TIFF"), SQUARE), CORNERS, 3)


def test_lab_is_refused() -> None:
    assert reason(encoded(Image.new("LAB", (4, 4)), "TIFF")) == "colour mode LAB is not supported"


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((10, 20, 30), (200, 100, 50))]
    for format_name, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
        assert (decode(data, SQUARE) == (10, 20, 30)).all(), format_name


def test_second_picture_behind_a_jpeg_is_ignored() -> None:
    data = encoded(quadrants(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))], quality=95)
    found = inspect(data, SQUARE)
    assert_corners(found.pixels, CORNERS, 8)
    assert found.format == "JPEG"


def test_colour_profile_is_ignored() -> None:
    plain, tagged_file = encoded(quadrants(), "PNG"), encoded(quadrants(), "PNG", icc_profile=b"not even a profile")
    assert np.array_equal(decode(plain, SQUARE), decode(tagged_file, SQUARE))


# ---- orientation

STORED = {
    1: (0, 1, 2, 3),
    2: (1, 0, 3, 2),
    3: (3, 2, 1, 0),
    4: (2, 3, 0, 1),
    5: (0, 2, 1, 3),
    6: (1, 3, 0, 2),
    7: (3, 1, 2, 0),
    8: (2, 0, 3, 1),
}
"""By EXIF orientation: which displayed quadrant is stored at each place. From the EXIF 2.32 table of the tag."""


def with_orientation(orientation: int, format_name: str, **options: object) -> bytes:
    """A file that displays as `CORNERS`, 96 wide and 64 high, stored as its orientation says."""
    width, height = (96, 64) if orientation < 5 else (64, 96)
    image = quadrants(tuple(CORNERS[i] for i in STORED[orientation]), width, height)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format_name, exif=exif, **options)


@pytest.mark.parametrize("orientation", list(STORED))
@pytest.mark.parametrize(
    ("format_name", "options"),
    [("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_orientation(orientation: int, format_name: str, options: dict[str, object], fit: str) -> None:
    found = inspect(with_orientation(orientation, format_name, **options), Geometry(48, fit))  # type: ignore[arg-type]
    assert (found.width, found.height) == (96, 64)
    inner = found.pixels[8:40, 8:40]
    assert_corners(inner, CORNERS, 5)


@pytest.mark.parametrize("size", [(801, 500), (800, 502)])
def test_orientation_of_a_padded_reduced_jpeg_is_a_turn_of_the_whole(size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    geometry = Geometry(33, "squash")
    plain, turned = (decode(encoded(image, "JPEG", **o), geometry) for o in ({}, {"exif": exif}))
    assert np.array_equal(turned, plain[::-1, ::-1])


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
    + [b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([value, 0, 0, 0]) for value in (0, 9, 255)],
)
def test_senseless_exif_leaves_the_picture_as_stored(exif: bytes) -> None:
    assert_corners(decode(encoded(quadrants(), "JPEG", exif=exif, quality=95, subsampling=0), SQUARE), CORNERS, 5)


# ---- geometry


def test_squash_stretches() -> None:
    assert_corners(decode(encoded(quadrants(width=200, height=50), "PNG"), SQUARE), CORNERS)


def test_crop_keeps_the_central_square() -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste(quadrants(width=100, height=100), (100, 0))
    assert_corners(decode(encoded(image, "PNG"), Geometry(40, "crop")), CORNERS)


def test_pad_keeps_all_and_adds_black() -> None:
    pixels = decode(encoded(quadrants(width=200, height=100), "PNG"), Geometry(40, "pad"))
    assert (pixels[:10] == 0).all()
    assert (pixels[30:] == 0).all()
    assert_corners(pixels[10:30].repeat(2, axis=0), CORNERS)


def test_resizing_averages_what_it_leaves_out() -> None:
    lines = Image.fromarray((np.arange(512) % 2 * 255).astype(np.uint8)[None].repeat(512, axis=0))
    pixels = decode(encoded(lines, "PNG"), SQUARE)
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - 127).max() <= 3


def test_enlarging_keeps_colours() -> None:
    assert_corners(decode(encoded(quadrants(width=8, height=8), "PNG"), Geometry(128)), CORNERS)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1000, 700), (701, 1303), (512, 512), (515, 257)])
def test_reduced_jpeg_decode_hardly_changes_the_picture(fit: str, size: tuple[int, int]) -> None:
    """Against the same JPEG decoded whole, as a PNG."""
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    jpeg = encoded(image, "JPEG", quality=92)
    whole = encoded(Image.open(io.BytesIO(jpeg)), "PNG")
    geometry = Geometry(64, fit)  # type: ignore[arg-type]
    difference = np.abs(decode(jpeg, geometry).astype(int) - decode(whole, geometry))
    assert difference.mean() < 1
    assert difference.max() <= 12


def test_large_jpeg_is_decoded_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(self: Image.Image, *args: object, **options: object) -> Image.Image:
        loaded.append(self.size)
        return resize(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", spy)
    decode(encoded(Image.new("RGB", (1600, 1200)), "JPEG"), Geometry(128))
    decode(encoded(Image.new("RGB", (400, 400)), "PNG"), Geometry(128))
    assert loaded == [(400, 300), (400, 400)]


# ---- size of what is announced


def announcing(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 13_000, 30_000, 2**31 - 1])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    assert reason(announcing(side, side)) == f"{side} x {side} pixels announced, more than the 100,000,000 allowed"


@pytest.mark.parametrize("format_name", FORMATS)
def test_limit_holds_for_every_format(format_name: str) -> None:
    data = encoded(quadrants(), format_name)
    assert decode(data, SQUARE, max_pixels=64 * 64).shape == (32, 32, 3)
    assert "64 x 64 pixels announced, more than the 4,095 allowed" in reason(data, max_pixels=64 * 64 - 1)


def test_sizes_that_make_pillow_warn_give_no_warning() -> None:
    """Between Pillow's warning (89 million pixels) and our limit; in threads, which share Pillow's settings."""
    data = encoded(Image.new("1", (9_600, 9_600)), "PNG")
    found: list[Decoded] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=lambda: found.append(inspect(data, SQUARE))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [(decoded.width, decoded.height) for decoded in found] == [(9_600, 9_600)] * 2


def test_gif_frame_that_outgrows_its_screen_is_bounded() -> None:
    data = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    frame = data.index(b",\0\0\0\0\x10\0\x10\0")
    struct.pack_into("<HH", data, frame + 5, 65535, 65535)
    assert "announce" in reason(bytes(data))


# ---- broken files


def samples() -> dict[str, bytes]:
    noise = Image.effect_noise((40, 30), 80)
    rgb = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encoded(rgb, "JPEG", exif=exif),
        "progressive": encoded(rgb, "JPEG", progressive=True),
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "png": encoded(rgb, "PNG", exif=exif),
        "palette": encoded(rgb.quantize(16), "PNG", transparency=3),
        "sixteen": encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"),
        "apng": encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
        "webp": encoded(rgb, "WEBP"),
        "webp_lossless": encoded(rgb.convert("RGBA"), "WEBP", lossless=True, exif=exif),
        "bmp": encoded(rgb, "BMP"),
        "tiff": encoded(rgb, "TIFF", exif=exif),
        "tiff_lzw": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "tiff_float": encoded(Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)), "TIFF"),
        "gif": encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
    }


VALID = samples()


@pytest.mark.parametrize("name", sorted(VALID.keys() - {"gif"}))
@pytest.mark.parametrize("missing", [0.95, 0.5, 0.1, 1])
def test_truncated_files_are_refused(name: str, missing: float) -> None:
    """`missing`: a share of the file, or 1 byte."""
    data = VALID[name]
    assert reason(data[: int(len(data) * (1 - missing))] if missing < 1 else data[:-1]).startswith(
        "broken or truncated "
    )


def test_tiff_with_fewer_rows_than_it_announces_is_refused() -> None:
    data = tagged(quadrants(), height=6400)
    assert reason(data) == "broken or truncated TIFF"
    assert reason(tagged(quadrants(), height=6400, rows_per_strip=6400)) == "broken or truncated TIFF"


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_deflate"}, {"tiffinfo": {278: 8}}])
def test_tiff_of_several_strips(options: dict[str, object]) -> None:
    assert_corners(decode(encoded(quadrants(), "TIFF", **options), SQUARE), CORNERS)


def test_gif_truncated_within_its_first_frame_is_refused() -> None:
    assert reason(VALID["gif"][: len(VALID["gif"]) // 3]) == "broken or truncated GIF"


def array_or_unreadable(data: bytes, geometry: Geometry) -> bool:
    try:
        pixels = decode(data, geometry, max_pixels=1_000_000)
    except Unreadable:
        return False
    assert (pixels.shape, pixels.dtype) == ((geometry.size, geometry.size, 3), np.uint8)
    return True


GEOMETRIES = st.builds(Geometry, st.sampled_from([1, 7, 32, 97]), st.sampled_from(["squash", "crop", "pad"]))
STARTS = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"MM\0*", b"GIF89a")


@settings(max_examples=150)
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200), geometry=GEOMETRIES)
def test_random_bytes_give_an_array_or_a_reason(start: bytes, rest: bytes, geometry: Geometry) -> None:
    array_or_unreadable(start + rest, geometry)


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(VALID)), share=st.floats(0, 1), geometry=GEOMETRIES)
def test_prefixes_give_an_array_or_a_reason(name: str, share: float, geometry: Geometry) -> None:
    data = VALID[name]
    array_or_unreadable(data[: int(len(data) * share)], geometry)


@settings(max_examples=400)
@given(
    name=st.sampled_from(sorted(VALID)),
    flips=st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 7)), min_size=1, max_size=8),
    early=st.booleans(),
    geometry=GEOMETRIES,
)
def test_flipped_bits_give_an_array_or_a_reason(
    name: str, flips: list[tuple[int, int]], early: bool, geometry: Geometry
) -> None:
    data = bytearray(VALID[name])
    for place, bit in flips:
        data[place % (min(len(data), 200) if early else len(data))] ^= 1 << bit
    array_or_unreadable(bytes(data), geometry)


@settings(max_examples=100)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    geometry=GEOMETRIES,
)
def test_every_size_and_mode_decodes(mode: str, width: int, height: int, geometry: Geometry) -> None:
    data = encoded(Image.new(mode, (width, height)), "TIFF")
    found = inspect(data, geometry)
    assert (found.width, found.height, found.mode) == (width, height, mode)
    assert array_or_unreadable(data, geometry)


def test_reasons_do_not_hang_on_who_listens_to_warnings() -> None:
    """Pillow warns about this EXIF block; in strict programs that would refuse a picture that others take."""
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0e\x01\x02\0\xff\xff\0\0\x10\0\0\0\x1a\x01\x05\0\x01\0\0\0\xf0\xff\0\0\0\0\0\0"
    )
    data = encoded(quadrants(), "JPEG", exif=exif)
    program = """if True:
        import sys
        from assay.preprocess import Geometry, decode
        sys.stdout.buffer.write(decode(sys.stdin.buffer.read(), Geometry(8)))
    """
    strict, lax = (run(program, data, option) for option in ("-Werror", "-Wignore"))
    assert len(strict) == 8 * 8 * 3
    assert strict == lax


def run(program: str, stdin: bytes, *options: str) -> bytes:
    import subprocess

    done = subprocess.run([sys.executable, *options, "-c", program], input=stdin, capture_output=True, check=True)
    return done.stdout


def test_refuses_to_work_where_truncated_files_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decode(encoded(quadrants(), "PNG"), SQUARE)


def test_lack_of_memory_is_told_apart_from_a_broken_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", exhausted)
    assert reason(encoded(quadrants(), "TIFF")) == "needs more memory than there is"


def test_needs_no_more_than_numpy_and_pillow() -> None:
    program = "import sys, assay.preprocess; print(*{name.partition('.')[0] for name in sys.modules})"
    heavy = {"torch", "pandas", "pyarrow", "timm", "onnxruntime", "pydantic", "rich", "mlflow"}
    assert not heavy & set(run(program, b"").decode().split())
