"""Images that are not of the data, whatever the data is: drawn, in turn of each of `KINDS`.

Noise and synthetic patterns are the usual far-away images of work on out-of-distribution detection (Hendrycks and
Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017). Patches that are shuffled
keep the data's colours and texture, and lose what it shows. They say nothing about images that are nearly of the data,
such as those of another camera. Half of what has colours is grey, for data that is grey.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Draw = Callable[[np.random.Generator, Pixels], Pixels]

_SEED = 20
_OVERSAMPLING = 2


def kind_of(index: int) -> str:
    """Which of `KINDS` the image of this number is."""
    return tuple(KINDS)[index % len(KINDS)]


def draw(index: int, material: Pixels) -> Pixels:
    """One unfamiliar image, uint8 [s, s, 3]; the same for the same number and material.

    Args:
        index: its number, 0 or more.
        material: an image of the data, uint8 [s, s, 3], whose patches may be used; its size is that of the result.
    """
    return KINDS[kind_of(index)](np.random.default_rng([_SEED, index]), material)


def _colours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """[count, 3] levels; a coin decides whether all of them are grey."""
    colours = rng.uniform(0, 255, (count, 3))
    return colours if rng.random() < 0.5 else np.repeat(colours[:, :1], 3, axis=1)


def _noise(rng: np.random.Generator, material: Pixels) -> Pixels:
    channels = 3 if rng.random() < 0.5 else 1
    noise = rng.integers(0, 256, (*material.shape[:2], channels), dtype=np.uint8)
    return np.broadcast_to(noise, material.shape).copy()


def _gradient(rng: np.random.Generator, material: Pixels) -> Pixels:
    """A colour in each corner, and a smooth change between."""
    corners = _colours(rng, 4).astype(np.uint8).reshape(2, 2, 3)
    # From the middle of one pixel of four to that of its neighbour: resizing goes on evenly there.
    picture = Image.fromarray(corners).resize(
        material.shape[1::-1], Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5)
    )
    return np.asarray(picture)


def _solid(rng: np.random.Generator, material: Pixels) -> Pixels:
    return np.broadcast_to(_colours(rng, 1).astype(np.uint8), material.shape).copy()


def _checkerboard(rng: np.random.Generator, material: Pixels) -> Pixels:
    period = int(rng.integers(2, max(material.shape[0] // 3, 3)))
    rows, columns = np.indices(material.shape[:2]) // period
    board: Pixels = _colours(rng, 2).astype(np.uint8)[(rows + columns) % 2]
    return board


def _stripes(rng: np.random.Generator, material: Pixels) -> Pixels:
    """Bars of one width, in any direction."""
    size = material.shape[0]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, max(size / 2, 5))
    rows, columns = np.indices(material.shape[:2])
    phase = (rows * np.sin(angle) + columns * np.cos(angle)) / period + rng.random()
    bars: Pixels = _colours(rng, 2).astype(np.uint8)[(phase % 1 < 0.5).astype(np.int64)]
    return bars


def _shuffled(rng: np.random.Generator, material: Pixels) -> Pixels:
    """Patches of an eighth of the side in another order; what is left over at the border stays."""
    side = max(material.shape[0] // 8, 1)
    count = material.shape[0] // side
    shuffled = material.copy()
    patches = shuffled[: count * side, : count * side].reshape(count, side, count, side, 3).swapaxes(1, 2)
    flat = patches.reshape(count * count, side, side, 3)[rng.permutation(count * count)]
    mixed = flat.reshape(count, count, side, side, 3).swapaxes(1, 2)
    shuffled[: count * side, : count * side] = mixed.reshape(count * side, count * side, 3)
    return shuffled


def _shapes(rng: np.random.Generator, material: Pixels) -> Pixels:
    """Three to eight bright discs, boxes and triangles on a ground of one colour."""
    size = material.shape[0] * _OVERSAMPLING
    count = int(rng.integers(3, 9))
    ground, *fills = _tuples(_colours(rng, count + 1))
    picture = Image.new("RGB", (size, size), ground)
    brush = ImageDraw.Draw(picture)
    for fill in fills:
        bright = tuple(128 + level // 2 for level in fill)
        (x, y), reach = rng.uniform(0, size, 2).tolist(), float(rng.uniform(0.08, 0.3)) * size
        corners = int(rng.integers(2, 5))
        if corners == 2:
            brush.ellipse((x - reach, y - reach, x + reach, y + reach), fill=bright)
        else:
            brush.regular_polygon((x, y, reach), corners, rotation=int(rng.integers(360)), fill=bright)
    return np.asarray(picture.reduce(_OVERSAMPLING))


def _text(rng: np.random.Generator, material: Pixels) -> Pixels:
    """Lines of small marks in words, like a page of writing seen from afar; no font, which machines have different."""
    size = material.shape[0] * _OVERSAMPLING
    paper, ink = _tuples(_colours(rng, 2))
    picture = Image.new("RGB", (size, size), paper)
    brush = ImageDraw.Draw(picture)
    height = max(int(rng.uniform(0.05, 0.12) * size), 3)
    for top in range(height // 2, size - height, 2 * height):
        for left in range(height // 2, size - height, height):
            if rng.random() < 0.8:  # the rest is what stands between words
                ends = rng.uniform(0, height, (3, 2)) * (0.7, 1.0) + (left, top)
                brush.line([tuple(end) for end in ends.tolist()], fill=ink, width=max(height // 6, 1))
    return np.asarray(picture.reduce(_OVERSAMPLING))


def _tuples(colours: NDArray[np.float64]) -> list[tuple[int, ...]]:
    return [tuple(int(level) for level in colour) for colour in colours]


KINDS: Mapping[str, Draw] = {
    "noise": _noise,
    "gradient": _gradient,
    "checkerboard": _checkerboard,
    "stripes": _stripes,
    "solid": _solid,
    "shuffled": _shuffled,
    "shapes": _shapes,
    "text": _text,
}
"""Name to what draws it."""
