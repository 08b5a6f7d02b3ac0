"""Abstention: a model that answers only when its conformal set holds one label.

Split conformal prediction (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Angelopoulos and
Bates, arXiv 2107.07511, 2021, section 1): on images that the model was not trained on, the score of each is one less
the probability of its own label. The set of a new image holds every label whose score is within the quantile
ceil((n + 1) coverage) / n of those n scores.

What is guaranteed: if the new image is exchangeable with the n images (as if all n + 1 were drawn in random order from
one source), the set holds its own label with at least the chance `coverage`, whatever the model and whatever n. What is
not: it is an average over images and over draws of the n, so one class, or one slice, may be covered less, and one
fitted threshold may cover a little less or more; images of another site or camera are not exchangeable; near relatives
in one group count as fewer images than they are; and where the same images also chose the checkpoint and fitted the
temperature, which they do here, the scores are a trifle too good. The gate therefore measures the coverage on the test
split. That an image is answered says nothing about the chance that this one answer is right.
"""

import math
from fractions import Fraction
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

DECIMALS = 4
"""Of the threshold. Finer digits differ between processors."""


class Abstention(BaseModel):
    """When a label is in the conformal set of an image: its probability is `threshold` or more."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    coverage: Annotated[float, Field(gt=0, lt=1)]
    """Share of images whose own label is to be in the set."""
    threshold: Annotated[float, Field(ge=0, le=1)]
    """0 puts every label in every set: there were too few images to fit it on."""


def fit_abstention(p: NDArray[np.floating], targets: NDArray[np.int64], coverage: float) -> Abstention:
    """The threshold above which labels must lie so that a share `coverage` of images has its own in the set.

    It is the greatest number of `DECIMALS` decimals below the quantile: rounding down makes sets larger, never the
    coverage smaller, and a rounding error on another machine takes no label out.

    Args:
        p: calibrated probabilities [n, k] of images that the model was not trained on.
        targets: class ids [n] of their own labels.
        coverage: more than 0, less than 1. Fewer than coverage / (1 - coverage) images cannot show it: threshold 0.

    Raises:
        ValueError: a probability is not a number from 0 to 1, or the shapes do not match.
    """
    if p.ndim != 2 or targets.shape != p.shape[:1]:
        raise ValueError(f"probabilities {list(p.shape)} and targets {list(targets.shape)} do not match")
    if not bool(((p >= 0) & (p <= 1)).all()):  # NaN fails both comparisons
        raise ValueError("a probability is not a number from 0 to 1")
    n = len(targets)
    # The decimal that was meant: 0.95 as binary is a little less or more, and could ask for one image too few.
    rank = math.ceil((n + 1) * Fraction(str(coverage)))
    if rank > n:
        return Abstention(coverage=coverage, threshold=0)
    own = np.sort(p[np.arange(n), targets])
    return Abstention(coverage=coverage, threshold=_below(float(own[n - rank])))


def in_set(p: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Which labels are in the conformal set of each image: bool [n, k] of probabilities [n, k]."""
    members: NDArray[np.bool_] = p.astype(np.float64) >= threshold
    return members


def answered(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which images get an answer, bool [n] of `in_set`: one label is inside, which then is the most probable one."""
    single: NDArray[np.bool_] = inside.sum(axis=1) == 1
    return single


def _below(probability: float) -> float:
    """The greatest number of `DECIMALS` decimals that is less than `probability`, and not less than 0."""
    steps: int = max(math.ceil(Fraction(probability) * 10**DECIMALS) - 1, 0)
    return float(steps / 10**DECIMALS)
