"""What tests of several rooms share: state in a folder of the test's own, small picture folders, and a hostile one."""

import os
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image

from pictures import encoded, picture

# No deadline: CI's machines are shared. No database: what a test finds it must find again by itself.
settings.register_profile("assay", deadline=None, database=None)
settings.load_profile("assay")
set_hypothesis_home_dir(Path(sys.prefix) / ".cache" / "hypothesis")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def assay_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test keeps Assay's state in a folder of its own (which is not made yet)."""
    home = tmp_path / ".assay"
    monkeypatch.setenv("ASSAY_HOME", str(home))
    # The same on every CPU; tests of the other runtimes ask for them.
    monkeypatch.setenv("ASSAY_SERVE_RUNTIME", "onnxruntime")
    return home


ImageFolder = Callable[..., Path]


@pytest.fixture
def image_folder(tmp_path: Path) -> ImageFolder:
    """A function that makes a folder of small, distinct, valid JPEGs.

    `image_folder({"crack": 8, "intact": 8}, size=64, seed=0, root=None)` writes `crack/0000.jpg`, … and returns the
    root, by default `tmp_path/images`. The same seed gives the same bytes.
    """

    def make(classes: Mapping[str, int] | None = None, size: int = 64, seed: int = 0, root: Path | None = None) -> Path:
        folder = root or tmp_path / "images"
        for number, (label, count) in enumerate((classes or {"crack": 8, "intact": 8}).items()):
            (folder / label).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image = picture((seed * 100 + number) * 100_000 + index, size, size)
                (folder / label / f"{index:04d}.jpg").write_bytes(encoded(image, quality=90))
        return folder

    return make


HOSTILE_FAULTS: Mapping[str, str] = {
    "crack/bomb.png": "30000 x 30000 pixels announced",
    "crack/empty.jpg": "empty file",
    "crack/link_broken.jpg": "a broken symbolic link",
    "crack/link_out.jpg": "a symbolic link out of the folder",
    "crack/no_image.jpg": "no image",
    "crack/truncated.jpg": "broken or truncated JPEG",
    "crack/truncated.png": "broken or truncated PNG",
    "intact/linked_folder/": "a symbolic link out of the folder",
    "intact/nan.tiff": "float32 pixels that are NaN",
    "intact/page.svg": "no image",
    "intact/pipe.jpg": "no regular file",
}


@pytest.fixture
def hostile_faults() -> Mapping[str, str]:
    """What `hostile_folder` holds that must be quarantined: uri to the beginning of its reason."""
    return HOSTILE_FAULTS


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """A folder of two classes, twelve plain pictures each, with every fault and oddity that a folder can have."""
    return write_hostile_folder(tmp_path / "hostile")


def write_hostile_folder(root: Path) -> Path:
    """See `hostile_folder`; a folder `outside` is made beside `root` for links to lead to."""
    outside = root.parent / "outside"
    for folder in (root / "crack", root / "intact", root / "__MACOSX", root / ".cache", outside):
        folder.mkdir(parents=True, exist_ok=True)
    for number, label in enumerate(("crack", "intact")):
        for index in range(12):
            (root / label / f"good_{index:02d}.jpg").write_bytes(encoded(picture(1000 * number + index), quality=90))
    for uri, content in {**_unreadable(), **_odd()}.items():
        (root / uri).write_bytes(content)
    (outside / "secret.jpg").write_bytes(encoded(picture(5001)))
    (root / "crack/link_out.jpg").symlink_to(outside / "secret.jpg")
    (root / "crack/link_broken.jpg").symlink_to(root / "crack/nowhere.jpg")
    (root / "intact/linked_folder").symlink_to(outside, target_is_directory=True)
    os.mkfifo(root / "intact/pipe.jpg")
    return root


def _unreadable() -> dict[str, bytes]:
    whole = encoded(picture(5000, 128, 128))
    nan = np.full((32, 32), 0.5, np.float32)
    nan[3, 4] = np.nan
    return {
        "crack/bomb.png": bomb_png(),
        "crack/empty.jpg": b"",
        "crack/no_image.jpg": b"this is no image\n" * 20,
        "crack/truncated.jpg": whole[: len(whole) // 2],
        "crack/truncated.png": encoded(picture(5002), "PNG")[:2000],
        "intact/nan.tiff": encoded(Image.fromarray(nan), "TIFF"),
        "intact/page.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    }


def _odd() -> dict[str, bytes]:
    """Unusual, and to be read all the same; `same.jpg` stands under two labels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    same = encoded(picture(6000))
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    alpha = picture(6005).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((64, 64)))
    return {
        "crack/same.jpg": same,
        "intact/same.jpg": same,
        "crack/one_pixel.png": encoded(Image.new("RGB", (1, 1), (200, 10, 10)), "PNG"),
        "crack/Größe_裂缝 ü.jpg": encoded(picture(6001)),
        "crack/rotated.jpg": encoded(picture(6002, 96, 64), exif=exif),
        "crack/cmyk.jpg": encoded(picture(6003).convert("CMYK")),
        "intact/sixteen_bit.png": encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        "intact/float.tiff": encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        "intact/palette.png": encoded(picture(6004).quantize(16), "PNG"),
        "intact/alpha.png": encoded(alpha, "PNG"),
        "intact/grey.png": encoded(picture(6006).convert("L"), "PNG"),
        "intact/one_bit.png": encoded(picture(6007).convert("1"), "PNG"),
        "intact/animated.gif": encoded(picture(6008), "GIF", save_all=True, append_images=[picture(6009)]),
        "intact/picture.webp": encoded(picture(6010), "WEBP"),
        "intact/no_suffix": encoded(picture(6011)),
        ".cache/hidden.jpg": encoded(picture(6012)),
        "__MACOSX/left_behind.jpg": b"junk",
        "crack/Thumbs.db": b"junk",
        "crack/.hidden.jpg": b"junk",
        "README.txt": b"A data set.\n",
    }


def bomb_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few bytes that announces a picture of any size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
