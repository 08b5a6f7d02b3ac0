"""Where in a picture the answer comes from: a heat map for any classifier, by hiding parts and asking again.

No gradients are needed, so what is explained is the very ONNX graph that answers. The picture is laid out in `GRID` x
`GRID` cells. Some of them are hidden, the model is asked, and what a cell is worth is the mean log-odds of the answer
while it is shown, less that while it is hidden.

Which cells are hidden together is no matter of chance, as it is in RISE (Petsiuk, Das and Saenko, arXiv 1806.07421,
2018): the rows of a Hadamard matrix and their complements hide every cell in half of the pictures, and every two cells
together in a quarter (Plackett and Burman, Biometrika 33, 1946; the complements are the fold-over of Box and Wilson,
1951). So the worth of a cell holds nothing of the worth of any other, nor of what two cells do together. Hiding one
patch at a time (Zeiler and Fergus, arXiv 1311.2901, 2013) does not see a crack that runs on outside of the patch.
On 37 synthetic cracks and the model of the demo, the hottest place was on the crack in 36 (RISE with as many pictures
and the same blur: 36, one black patch at a time: 20), and 4.1 times as much of the heat was there as chance would put
there (3.0 and 2.3).

Hidden means blurred (Fong and Vedaldi, arXiv 1704.03296, 2017): a black patch is to a crack detector a dark thing with
sharp edges. For the same reason cells fade into each other.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

GRID = 8
"""Cells along each side; fewer in a picture of fewer pixels."""
GRIDS = (GRID, 5, 4, 2)
"""What there is for models that are too slow for the first: 128, 64, 32 and 8 pictures."""
MASKS = 2 * GRID**2
"""Pictures that the design of so many cells shows to the model. They cost as many forward passes, and 0.1 s more at 224
pixels: about 1.4 s in all with a model of 10 ms. Without the complements half of them would do, and found 30 of those
cracks."""
BATCH = 8
"""Pictures shown at once. On a CPU more of them gain nothing, and the runtime keeps the memory for good."""
FAINT = 0.1
"""Log-odds. Where no cell is worth as much, nothing decides by itself, and the map is not stretched up to 1."""

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_NEAR_CERTAIN = 1e-6
"""Probabilities nearer to 0 or 1 are taken as this near: float32 holds little more, and 1 has no log-odds."""
_BLUR = 1 / 8
"""Standard deviation of the blur in sides of the picture."""
_OPACITY = 0.75
"""Of the hottest place."""
# Plasma (van der Walt and Smith, 2015) from its middle: lightness rises evenly, also for the colour-blind.
_COLOURS = np.array(
    [[150, 19, 161], [189, 55, 134], [219, 91, 104], [241, 130, 77], [253, 174, 50], [248, 225, 37]], np.float32
)


def heatmap(
    predict: Predict, pixels: NDArray[np.uint8], target: int, *, grid: int = GRID, rounds: int = 1, seed: int = 0
) -> NDArray[np.float32]:
    """How much each place of a picture speaks for one class.

    Args:
        predict: probabilities float32 [n, k] of pictures uint8 [n, s, s, 3]; it is asked with `BATCH` pictures at once.
        pixels: uint8 [s, s, 3], RGB.
        target: the class to be explained, 0 to k - 1.
        grid: cells along each side. A coarser map costs fewer pictures, see `pictures`.
        rounds: designs to show to the model. More of them lessen the part of noise that comes from three and more cells
            acting together.
        seed: decides which row of the design hides which cells; the same seed gives the same map.

    Returns:
        float32 [s, s] from 0 (says nothing, or speaks against it) to 1 (the most of all, in this picture). All 0 if the
        answer is the same whatever is hidden.

    Raises:
        ValueError: the picture, the target or an answer is not as described.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
        raise ValueError(f"pixels must be uint8 [s, s, 3], given: {pixels.dtype} {list(pixels.shape)}")
    size = len(pixels)
    spread = _spread(min(grid, size), size)
    signs = _signs(spread.shape[1] ** 2, _order(grid), rounds, seed)
    scores = _scores(predict, pixels, target, signs, spread)
    worth = 2 / len(signs) * (signs.T @ (scores - scores[0])).reshape(spread.shape[1], -1)
    heat = spread @ worth.clip(min=0) @ spread.T
    return np.asarray(heat / max(float(heat.max()), FAINT), np.float32).clip(0, 1)


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """The picture under its heat map, as PNG: untouched where `heat` is 0, the more coloured the hotter.

    Args:
        pixels: uint8 [s, s, 3], RGB.
        heat: float32 [s, s], 0 to 1.
    """
    place = heat[..., np.newaxis].astype(np.float32) * (len(_COLOURS) - 1)
    lower = np.minimum(place[..., 0].astype(np.intp), len(_COLOURS) - 2)
    colours = _COLOURS[lower] + (place - lower[..., np.newaxis]) * (_COLOURS[lower + 1] - _COLOURS[lower])
    blended = pixels + _OPACITY * heat[..., np.newaxis] * (colours - pixels)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(blended).astype(np.uint8)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def pictures(grid: int) -> int:
    """How many pictures one design of so many cells along each side shows to the model."""
    return 2 * _order(grid)


def affordable(picture_s: float, budget_s: float) -> int:
    """The finest of `GRIDS` whose design takes at most `budget_s` with a model that takes `picture_s`; or the last."""
    return next((grid for grid in GRIDS if pictures(grid) * picture_s <= budget_s), GRIDS[-1])


def _order(grid: int) -> int:
    """Rows of the smallest of Sylvester's matrices that has a column for each cell: a power of two."""
    return 1 << (grid**2 - 1).bit_length()


def _signs(cells: int, order: int, rounds: int, seed: int) -> NDArray[np.float64]:
    """Designs [rounds * 2 * order, cells]: 1 where a cell is shown, -1 where it is hidden."""
    index = np.arange(order)
    # Sylvester's matrix: any two different columns agree in half of the rows.
    hadamard = 1.0 - 2.0 * (np.bitwise_count(index[:, np.newaxis] & index) % 2)
    folded = np.concatenate([hadamard, -hadamard])
    rng = np.random.default_rng(seed)
    # Turned round at random, lest one row hides everything, which is no picture that a model knows.
    turned = [rng.choice([-1.0, 1.0], cells) for _ in range(rounds)]
    return np.concatenate([folded[:, rng.permutation(order)[:cells]] * turn for turn in turned])


def _spread(cells: int, size: int) -> NDArray[np.float64]:
    """[size, cells]: how much of each cell is in each pixel along one side; each row sums to 1."""
    centre = (np.arange(size) + 0.5) * cells / size - 0.5
    distance = np.abs(centre.clip(0, cells - 1)[:, np.newaxis] - np.arange(cells))
    shares: NDArray[np.float64] = (1 - distance).clip(min=0)
    return shares


def _scores(
    predict: Predict, pixels: NDArray[np.uint8], target: int, signs: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-odds [n] of the target in each picture of a design."""
    hidden = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_BLUR * len(pixels))), np.float32)
    detail = pixels - hidden
    parts = []
    for start in range(0, len(signs), BATCH):
        shown = (signs[start : start + BATCH] + 1).reshape(-1, spread.shape[1], spread.shape[1]) / 2
        masks = (spread @ shown @ spread.T).astype(np.float32)[..., np.newaxis]
        parts.append(_answers(predict, (hidden + masks * detail + 0.5).astype(np.uint8), target))
    p = np.concatenate(parts).clip(_NEAR_CERTAIN, 1 - _NEAR_CERTAIN)
    odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return odds


def _answers(predict: Predict, pictures: NDArray[np.uint8], target: int) -> NDArray[np.float64]:
    rows = predict(pictures)
    if rows.ndim != 2 or len(rows) != len(pictures) or not 0 <= target < rows.shape[1]:
        raise ValueError(f"{len(pictures)} pictures, answer {list(rows.shape)}, target {target}: do not match")
    p = rows[:, target].astype(np.float64)
    if not np.isfinite(p).all():
        raise ValueError("a probability is not a number")
    return p
