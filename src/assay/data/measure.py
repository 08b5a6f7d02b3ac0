"""What a scan measures on the pixels of one image. Integer arithmetic, so that every machine gives the same values."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

VERSION = 1
"""Raised whenever the same pixels would give other values: what was measured under another version is stale."""

_SIDE, _LOW = 32, 8
_LEVELS = np.arange(256, dtype=np.int64)
_BITS = np.uint64(1) << np.arange(_LOW * _LOW, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one image's [s, s, 3] pixels. Luminance is ITU-R BT.601's, 0 black to 1 white."""

    phash: int
    """64-bit perceptual hash; the Hamming distance of two is small where the pictures look alike."""
    brightness: float
    """Mean luminance."""
    contrast: float
    """Standard deviation of the luminance."""
    sums: tuple[int, int, int]
    """Sum of the levels (0 to 255) of each channel."""
    squares: tuple[int, int, int]
    """Sum of the squared levels of each channel."""


def measure(pixels: np.ndarray, image: Image.Image | None = None) -> Measures:
    """Measure uint8 [s, s, 3] RGB pixels; `image` is the same as Pillow's, which spares a copy."""
    image = image or Image.fromarray(pixels)
    luminance = image.convert("L")
    counts = np.array(image.histogram() + luminance.histogram(), dtype=np.int64).reshape(4, 256)
    red, green, blue, grey = (counts @ _LEVELS).tolist()
    red2, green2, blue2, grey2 = (counts @ _LEVELS**2).tolist()
    n = image.width * image.height
    mean = grey / n
    deviation = max(grey2 * n - grey * grey, 0) ** 0.5 / n
    return Measures(_phash(luminance), mean / 255, deviation / 255, (red, green, blue), (red2, green2, blue2))


def perceptual_hash(pixels: np.ndarray) -> int:
    """64-bit perceptual hash of uint8 [s, s, 3] RGB pixels: see `_phash`."""
    return _phash(Image.fromarray(pixels).convert("L"))


def _phash(luminance: Image.Image) -> int:
    """The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.

    The luminance at 32x32 (area average), its 2-D DCT-II, the coefficients of the frequencies 1 to 8 in both
    directions (so neither the mean nor a plain gradient counts), and one bit each: above their median or not.
    A picture without any texture gives 0.
    """
    small = np.asarray(luminance.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    low = (_DCT @ small @ _DCT.T).ravel()
    ordered = np.sort(low)
    twice_median = ordered[31] + ordered[32]
    return int(_BITS[2 * low > twice_median].sum(dtype=np.uint64))


def _dct_rows() -> np.ndarray:
    """float64 [8, 32]: the DCT-II's cosines of the frequencies 1 to 8, times 2**12 and rounded.

    Whole numbers, as are all products and sums of them with levels, below 2**53: every order of adding is exact.
    """
    frequency = np.arange(1, _LOW + 1)[:, None]
    place = 2 * np.arange(_SIDE)[None, :] + 1
    rows: np.ndarray = np.rint(np.cos(np.pi * frequency * place / (2 * _SIDE)) * 4096)
    return rows


_DCT = _dct_rows()
