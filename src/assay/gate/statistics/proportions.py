"""Limits of proportions whose error rate is guaranteed, at whatever the truth is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

NOTHING = 1e-9
"""A count below this is none: no digit of a limit depends on it, and quantile functions stumble over it."""


class Limits(NamedTuple):
    """Lower and upper ends, arrays of one shape, or scalars as float64."""

    low: Floats
    high: Floats


def one_sided(confidence: float) -> float:
    """The error of one end, alpha: 0.025 for a confidence of 0.95."""
    return (1 - confidence) / 2


def limits(successes: ArrayLike, n: ArrayLike, confidence: float) -> Limits:
    """Exact limits of a binomial proportion (Clopper & Pearson 1934, Biometrika 26:404-413).

    Each end is wrong at most alpha of the time, whatever the proportion and n. Wilson's limits hold that on average
    over proportions only: near 0 their lower end fails several times as often, and more so the smaller alpha is.

    Args:
        successes: counts, any shape, between 0 and n; they need not be whole.
        n: trials, a shape that fits; where it is 0 the interval is [0, 1].
        confidence: two-sided, above 0 and below 1.
    """
    x, trials = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    return Limits(_low(x, trials, one_sided(confidence)), 1 - _low(trials - x, trials, one_sided(confidence)))


def below(successes: ArrayLike, n: ArrayLike, floor: float) -> Floats:
    """One-sided p-value for "the proportion is below `floor`", by the exact binomial test.

    Small where so few successes would hardly happen at the floor; 1 where n is 0.

    Args:
        successes: counts, any shape, between 0 and n; they need not be whole.
        n: trials, a shape that fits.
        floor: in [0, 1].
    """
    x, trials = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    failures = np.maximum(trials - x, 0)
    tail = special.betainc(np.where(failures > 0, failures, 1), x + 1, 1 - floor)
    return np.asarray(np.where(failures > 0, tail, 1.0))[()]


def balanced(successes: ArrayLike, n: ArrayLike, confidence: float) -> tuple[float, float]:
    """Limits of the plain mean of proportions, such as the recalls of the classes.

    The exact limits of one proportion that is measured on as many trials as if every class had only as many as the
    smallest. The mean is a weighted sum of all trials, and no weight is larger than in that proportion. Where all
    classes are of one size, the guarantee is a theorem (Hoeffding 1956, Ann. Math. Statist. 27:713-721: the sum of
    unequal trials has lighter tails than the binomial of their mean); for other sizes Bentkus 2004 (Ann. Probab.
    32:1650-1673) bounds the error by e times alpha, and exact enumeration for two classes finds it below alpha
    throughout: the smaller the smallest class beside the others, the further below.

    Wilson's interval with an effective sample size, as `evaluation.intervals.mean_of_proportions`, is narrower and
    guarantees nothing: with 40 and 1,960 images its lower end is wrong twice as often as it says for good models, and
    twenty times at small alpha.

    Args:
        successes: counts [k]; they need not be whole.
        n: trials [k], each more than 0.
        confidence: two-sided.
    """
    x, trials = np.asarray(successes, float), np.asarray(n, float)
    size = len(trials) * float(trials.min())
    low, high = limits(float(np.mean(x / trials)) * size, size, confidence)
    return float(low), float(high)


def _low(successes: Floats, n: Floats, alpha: float) -> Floats:
    some = successes > NOTHING
    low = special.betaincinv(np.where(some, successes, 1), np.maximum(n - successes, 0) + 1, alpha)
    return np.asarray(np.where(some, low, 0.0))[()]
