"""How long one image takes."""

import time

import numpy as np

from assay.console import progress
from assay.data.dataset import Subset
from assay.models.bundle import Bundle
from assay.models.predictor import Predictor

WARM_UP = 10
"""Images that are classified before the clock starts: the runtime plans its memory on the first."""


def latency(bundle: Bundle, subset: Subset, n: int) -> tuple[float, ...]:
    """Milliseconds of inference for each of `n` images, one after the other, to the microsecond.

    One thread computes: a service answers requests side by side, each on one. The image is in memory, decoded; what is
    measured is the model alone.

    Args:
        bundle: the model.
        subset: its images are taken in turn, from the first again if they are fewer than `n`.
        n: how many; 0, and an empty split, give nothing.

    Raises:
        BundleError: the model cannot be run.
        DataError: the images cannot be read.
    """
    if not n or not len(subset):
        return ()
    predictor = Predictor(bundle, threads=1)
    taken = []
    with progress("latency", n, "images") as advance:
        for turn in range(-WARM_UP, n):
            pixels = subset.read(np.array([turn % len(subset)]))
            begin = time.perf_counter()
            predictor.probabilities(pixels)
            if turn >= 0:
                taken.append(round(1000 * (time.perf_counter() - begin), 3))
                advance()
    return tuple(taken)
