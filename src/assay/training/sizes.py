"""Progressive resizing: the first epochs see smaller images, which cost less and teach what is coarse.

Howard 2018 (fast.ai's DAWNBench entry); Tan & Le 2021, "EfficientNetV2" (ICML), section 4. The last third of the
epochs, validation and everything after the training see the whole size.
"""

import cv2
import numpy as np

STEP = 32
"""Sizes are multiples of this, the stride of most backbones."""
WHOLE_FROM = 2 / 3
"""Share of the epochs after which images have their whole size."""


def size_at(epoch: int, epochs: int, first: int | None, whole: int) -> int:
    """Side in pixels of the images of `epoch` (from 0): grows from `first` to `whole` in equal steps of epochs."""
    if first is None or first >= whole or epoch == epochs - 1:
        return whole
    sizes: list[int] = [*range(first, whole, STEP), whole]
    growing = max(1.0, WHOLE_FROM * epochs)
    return sizes[min(int(epoch / growing * (len(sizes) - 1)), len(sizes) - 1)]


def shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, s, s, 3] at `size` pixels a side, by area; as they are where that is their size."""
    if pixels.shape[1] == size:
        return pixels
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in pixels])
