"""Changes to an image after which a model is known to be wrong if it answers otherwise.

Metamorphic tests (Ribeiro et al., "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList", ACL 2020, calls
them invariance and directional expectation tests): no label is needed to see that they fail.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

CONTRAST_KEPT = 0.5
"""Of `lower_contrast`: the share of each level's distance from the mean luminance that stays."""

Pixels = NDArray[np.uint8]


def lower_contrast(pixels: Pixels) -> Pixels:
    """uint8 [n, s, s, 3]: all levels drawn to their image's mean luminance (ITU-R BT.601), by half."""
    luminance = pixels.mean(axis=(1, 2)) @ np.array([0.299, 0.587, 0.114])
    mean = luminance[:, None, None, None].astype(np.float32)
    drawn: Pixels = np.rint(mean + CONTRAST_KEPT * (pixels - mean)).astype(np.uint8)
    return drawn


INVARIANCES: Mapping[str, Callable[[Pixels], Pixels]] = {
    "horizontal_flip": lambda pixels: pixels[:, :, ::-1],
    "vertical_flip": lambda pixels: pixels[:, ::-1],
    "rotate_90": lambda pixels: np.rot90(pixels, 1, axes=(1, 2)),  # anticlockwise
    "rotate_180": lambda pixels: np.rot90(pixels, 2, axes=(1, 2)),
    "rotate_270": lambda pixels: np.rot90(pixels, 3, axes=(1, 2)),
}
"""What must not change the answer; each takes and gives uint8 [n, s, s, 3]."""

BEHAVIOUR: Mapping[str, Callable[[Pixels], Pixels]] = {**INVARIANCES, "lower_contrast": lower_contrast}
"""`INVARIANCES`, and what must not make the model surer."""
