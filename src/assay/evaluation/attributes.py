"""What is measured on each test image beside what the manifest knows of it. Numpy, Pillow and scipy; a ms an image."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from assay.console import progress
from assay.data.dataset import Subset
from assay.evaluation.slices import ATTRIBUTES
from assay.models.predictor import MAX_BATCH
from assay.preprocess import Geometry

LEAST_DEPTH = 20
"""Levels of luminance by which a line must be darker than what is beside it, to be one."""
LEAST_LENGTH = 0.4
"""Of a line, in sides of the picture."""
LEAST_SLENDERNESS = 3.0
"""Of a line: its length in widths."""

Luminance = NDArray[np.uint8]


def attributes(subset: Subset) -> pa.Table:
    """`slices.ATTRIBUTES` of the images of a split, one row each in the order of `subset`.

    Raises:
        DataError: the images cannot be read.
    """
    measured = np.empty((len(subset), 2), np.float32)
    width, height = (subset.table[name].to_numpy() for name in ("width", "height"))
    with progress("measure", len(subset), "images") as advance:
        for start in range(0, len(subset), MAX_BATCH):
            rows = np.arange(start, min(start + MAX_BATCH, len(subset)))
            for row, pixels in zip(rows, subset.read(rows), strict=True):
                picture = _content(pixels, subset.geometry, int(width[row]), int(height[row]))
                luminance = np.asarray(Image.fromarray(picture).convert("L"))
                measured[row] = sharpness(luminance), stroke_width(luminance)
            advance(len(rows))
    shorter, longer = np.maximum(np.minimum(width, height), 1), np.maximum(width, height)
    told = {name: subset.table[name] for name in subset.table.column_names if name in ATTRIBUTES.names}
    derived: dict[str, Any] = {
        "shorter_side": shorter,
        "aspect_ratio": (longer / shorter).astype(np.float32),
        "scale": (subset.geometry.size / (longer if subset.geometry.fit == "pad" else shorter)).astype(np.float32),
        "sharpness": measured[:, 0],
        "stroke_width": measured[:, 1],
    }
    return pa.table({**told, **derived}).select(ATTRIBUTES.names).cast(ATTRIBUTES)


def sharpness(luminance: Luminance) -> float:
    """Variance of the Laplacian over variance of the luminance, uint8 [h, w]: 0 smooth, 20 white noise, at most 64.

    The variance of the Laplacian is the focus measure LAPV of Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy", ICPR 2000; over the variance of the luminance it does not depend on contrast. It depends on how busy
    the picture is: a bound fits pictures of one kind at one stored size. NaN where the luminance does not vary.
    """
    levels = luminance.astype(np.int32)
    variance = float(levels.var())
    if variance == 0 or min(levels.shape) < 3:
        return float("nan")
    sides = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((sides - 4 * levels[1:-1, 1:-1]).var()) / variance


def stroke_width(luminance: Luminance) -> float:
    """Mean width in pixels of the thinnest long dark line in uint8 [h, w], such as a crack; NaN where there is none.

    1. The black top-hat (closing less picture; Serra, Image Analysis and Mathematical Morphology, 1982) with a square
       of an eighth of the side holds what is dark and narrower than that square, whatever the light.
    2. Dark is what lies at least half way from its median (the texture) to its 99.5th percentile (the deepest).
    3. Of each 8-connected piece the area A and the perimeter P (Crofton's formula in four directions) give the sides of
       the strip with A = wl and P = 2(w + l). Pieces count that are long and slender.

    It sees joints, scratches and wires as well as cracks, and noise that breaks a line breaks the measure.
    """
    side = max(luminance.shape)
    depth = _closing(luminance, 2 * max(2, side // 16) + 1) - luminance
    shares = np.cumsum(np.bincount(depth.ravel(), minlength=256)) / depth.size
    texture, deepest = np.searchsorted(shares, (0.5, 0.995)).tolist()
    if deepest - texture < LEAST_DEPTH:
        return float("nan")
    pieces, _ = ndimage.label(depth >= (texture + deepest) / 2, structure=np.ones((3, 3)))
    width, length = _strips(pieces)
    lines = (length >= LEAST_LENGTH * side) & (length >= LEAST_SLENDERNESS * width)
    lines[0] = False  # what is no piece
    return float(width[lines].min()) if lines.any() else float("nan")


def _content(pixels: NDArray[np.uint8], geometry: Geometry, width: int, height: int) -> NDArray[np.uint8]:
    """The picture without the black that `pad` put beside it."""
    if geometry.fit != "pad":
        return pixels
    shape = [max(1, round(extent * geometry.size / max(width, height, 1))) for extent in (height, width)]
    top, left = ((geometry.size - extent) // 2 for extent in shape)
    return pixels[top : top + shape[0], left : left + shape[1]]


def _closing(picture: Luminance, size: int) -> Luminance:
    """Grey closing with a square of an odd number of pixels; ten times as fast on bytes as scipy's."""
    for extreme in (np.maximum, np.minimum):
        for axis in (0, 1):
            picture = _sliding(extreme, picture, size, axis)
    return picture


def _sliding(extreme: np.ufunc, picture: Luminance, size: int, axis: int) -> Luminance:
    """The extreme of each `size` neighbours along an axis, the border repeated; windows grow by doubling."""
    swept = picture.swapaxes(0, axis)
    swept = np.concatenate([swept[:1].repeat(size // 2, 0), swept, swept[-1:].repeat(size // 2, 0)])
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        swept = extreme(swept[:-step], swept[step:])
        reach += step
    return swept.swapaxes(0, axis)


def _strips(pieces: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width and length [k + 1] of the strip that has the area and perimeter of each piece 0 (the rest) to k."""
    count = int(pieces.max()) + 1
    area = np.bincount(pieces.ravel(), minlength=count)
    z = np.pad(pieces, 1)
    straight, slant = 1.0, 0.5**0.5
    crossings = np.zeros(count)
    for one, other, spacing in (
        (z[:, 1:], z[:, :-1], straight),
        (z[1:], z[:-1], straight),
        (z[1:, 1:], z[:-1, :-1], slant),
        (z[1:, :-1], z[:-1, 1:], slant),
    ):
        apart = one != other
        crossings += spacing * np.bincount(np.concatenate([one[apart], other[apart]]), minlength=count)
    half = np.pi / 16 * crossings
    root = np.sqrt(np.maximum(half**2 - 4 * area, 0))
    return (half - root) / 2, (half + root) / 2
