"""Several questions to one test set: within a verdict (Holm) and from verdict to verdict (spending)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values (Holm 1979, Scand. J. Statist. 6:65-70).

    Whatever hangs together among the questions, calling significant what is adjusted to at most alpha errs at all with
    a chance of at most alpha.

    Args:
        p: p-values [m], m may be 0.

    Returns:
        Adjusted p-values [m], in the order of `p`.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def alpha_at(alpha: float, look: int) -> float:
    """What look number `look` at a test set may spend of alpha: alpha / (look (look + 1)).

    All looks together, however many, spend alpha (look / (look + 1) of it so far). A schedule of levels fixed
    beforehand is alpha spending (Lan & DeMets 1983, Biometrika 70:659-663); that the reuse of a holdout must be paid
    for is Dwork et al. 2015 (Science 349:636-638).

    The union bound holds for candidates that were there before the first look, and for candidates made in the light of
    earlier verdicts as long as those were all "no": there is one such path, so its questions are fixed. A promotion
    tells where the path ended, and nothing else as long as verdicts say yes or no. So whoever trains must see no number
    of the test set. The Ladder (Blum & Hardt 2015, ICML, PMLR 37:1006-1014) is for those who publish one: it rounds the
    best score so far, and bounds the error of that score rather than the chance of a wrong promotion.

    Args:
        alpha: one-sided, of all looks together.
        look: from 1.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not from {look}")
    return alpha / (look * (look + 1))


def confidence_at(confidence: float, look: int) -> float:
    """Two-sided confidence of look number `look`, where all looks together have `confidence`."""
    return 1 - 2 * alpha_at((1 - confidence) / 2, look)
