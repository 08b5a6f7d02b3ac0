"""Confidence intervals in closed form. All are two-sided: at 95% confidence each end fails 2.5% of the time.

Every one of them stays an interval of more than one point when nothing, or everything, was right: a test set of five
images without a mistake does not show that there are none.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Limits(NamedTuple):
    """Lower and upper ends, arrays of one shape or scalars as float64."""

    low: Floats
    high: Floats


def z_score(confidence: float) -> float:
    """Standard normal quantile that leaves half of `1 - confidence` above itself: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Limits:
    """Score interval of a binomial proportion (Wilson 1927, JASA 22:209-212).

    Args:
        successes: counts, any shape; they need not be whole.
        n: trials, the same shape; where it is 0 the interval is [0, 1].
    """
    x, trials = np.asarray(successes, float), np.asarray(n, float)
    z2 = z_score(confidence) ** 2
    centre = (x + z2 / 2) / (trials + z2)
    half = np.sqrt(z2) * np.sqrt(x * (trials - x) / np.maximum(trials, 1e-300) + z2 / 4) / (trials + z2)
    # At the ends the formula gives 0 and 1 but for rounding, and a bound of 100% is compared with them.
    low = np.where(x <= 0, 0.0, np.clip(centre - half, 0, 1))
    high = np.where(x >= trials, 1.0, np.clip(centre + half, 0, 1))
    return Limits(low, high)


def mean_of_proportions(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the plain mean of independent proportions, such as the recalls of the classes.

    Wilson's, for the number of trials that would give one proportion the variance of this mean: an effective sample
    size (Korn & Graubard 1998, Surv. Methodol. 24:193-201). For its variance each proportion is taken with a success
    and a failure more, so that those at 0 and 1 have one too (as Agresti & Caffo 2000, Am. Stat. 54:280-288).

    Args:
        successes: counts [m]; they need not be whole.
        n: trials [m], each more than 0.
    """
    x, trials = np.asarray(successes, float), np.asarray(n, float)
    shrunk = (x + 1) / (trials + 2)
    variance = float(np.sum(shrunk * (1 - shrunk) / trials)) / len(x) ** 2
    return _of_size(float(np.mean(x / trials)), _size(float(shrunk.mean()), variance), confidence)


def _size(value: float, variance: float) -> float:
    """Trials at which a proportion has this variance."""
    return value * (1 - value) / variance


def _of_size(value: float, size: float, confidence: float) -> tuple[float, float]:
    low, high = wilson(value * size, size, confidence)
    return float(low), float(high)


def auroc(area: ArrayLike, positives: ArrayLike, negatives: ArrayLike, confidence: float = 0.95) -> Limits:
    """Interval of the area under a ROC curve: method 5 of Newcombe 2006 (Statist. Med. 25:559-573).

    A score interval on Hanley and McNeil's variance. DeLong's interval has no width where the classes are separated
    and covers 30 to 90% instead of 95% where one class has few examples, which is where it matters here.

    Args:
        area: in [0, 1], any shape.
        positives, negatives: counts of at least 1, the same shape.
    """
    a, m, n = np.broadcast_arrays(np.asarray(area, float), np.asarray(positives, float), np.asarray(negatives, float))
    z2 = z_score(confidence) ** 2

    def outside(t: Floats) -> NDArray[np.bool_]:
        excess: NDArray[np.bool_] = (a - t) ** 2 > z2 * _hanley_mcneil(t, m, n)
        return excess

    return Limits(_bisect(np.zeros_like(a), a, outside), _bisect(np.ones_like(a), a, outside))


def mean_auroc(
    areas: Floats, positives: ArrayLike, negatives: ArrayLike, variance: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of areas under ROC curves that share their images, as of each class against the rest.

    Wilson's for an effective sample size, the smaller of two: by `variance`, which knows how the classes hang together
    and is too small where few images were ranked wrong; and by Hanley and McNeil's, which knows neither.

    Args:
        areas: [m], each in [0, 1].
        positives, negatives: counts [m] of at least 1.
        variance: DeLong's, of the mean area.
    """
    m, n = np.asarray(positives, float), np.asarray(negatives, float)
    mean, shrunk = float(areas.mean()), (areas * m + 1) / (m + 2)
    assumed = float(np.sum(_hanley_mcneil(shrunk, m, n))) / len(areas) ** 2
    size = _size(float(shrunk.mean()), assumed)
    if variance > 0:
        size = min(size, _size(mean, variance))
    return _of_size(mean, size, confidence)


def _hanley_mcneil(area: Floats, positives: Floats, negatives: Floats) -> Floats:
    """Variance of an area (1982, Radiology 143:29-36), with both counts replaced by their mean as Newcombe advises."""
    spread = 1 + ((positives + negatives) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
    variance: Floats = area * (1 - area) * spread / (positives * negatives)
    return variance


def _bisect(far: Floats, near: Floats, outside: Callable[[Floats], NDArray[np.bool_]]) -> Floats:
    """Where `outside` turns false on the way from `far` to `near`."""
    for _ in range(60):
        middle = (far + near) / 2
        out = outside(middle)
        far, near = np.where(out, middle, far), np.where(out, near, middle)
    return near
