"""Two models on the same images. Where both are right, or both wrong, they do not differ: what counts are the images
that only one of them got right."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from assay.gate.statistics.proportions import NOTHING, Floats, Limits, one_sided

STEP = 0.05
NODES = np.arange(-54, 55) * STEP
"""Of the double exponential rule (Takahasi & Mori 1974, Publ. RIMS 9:721-741), to which roots and poles at the ends of
an interval do no harm."""
PLACES = special.expit(np.pi * np.sinh(NODES))
"""The nodes, as shares of the interval."""
WEIGHTS = STEP * np.pi * np.cosh(NODES) * PLACES * special.expit(-np.pi * np.sinh(NODES))
NEGLIGIBLE = 1e-15
"""Probability of a tail that is left out."""
HALVINGS = 42
"""Of an interval of length 2: to 5e-13."""
BLOCK = 4096
"""Tables that are worked on at a time."""

Probability = Callable[[Floats], Floats]


def mcnemar(first_only: ArrayLike, second_only: ArrayLike) -> Floats:
    """One-sided p-value for "the first is better", exact (McNemar 1947, Psychometrika 12:153-157).

    The chance that a fair coin falls for the first at least so often, among the images on which they differ; 1 where
    there is none.

    Args:
        first_only, second_only: images that only one of the two got right, any shape; they need not be whole.
    """
    b, c = np.broadcast_arrays(np.asarray(first_only, float), np.asarray(second_only, float))
    return np.asarray(np.where(b > 0, special.betainc(np.where(b > 0, b, 1), c + 1, 0.5), 1.0))[()]


def difference(first_only: ArrayLike, second_only: ArrayLike, n: ArrayLike, confidence: float) -> Limits:
    """Limits of the difference of two proportions of the same images, first less second, compatible with McNemar.

    With u_1 <= ... <= u_n the order statistics of n uniform numbers, b images that only the first got right show that
    its share is at least u_b, and c that only the second got right that its share is at most 1 - u_(n-c). The lower
    limit is the alpha quantile of u_b - (1 - u_(n-c)): a difference of two components of a Dirichlet variable with the
    parameters (b, c + 1, n - b - c). Its relatives are Clopper and Pearson's limit, which it is where b = 0, and the
    limits of Fay & Lumbard 2021 (Statist. Med. 40:1147-1159), which join the same pieces. It lies above 0 exactly
    where McNemar's exact p-value is at most alpha.

    By exact enumeration over the nuisance parameter, for n of 50 to 40,000, bounds of -5 to +2 points and alpha of
    0.025 to 0.00006, it is above the true difference at most alpha of the time. Tango's is up to 1.4 times as often
    above a margin, and up to 3.4 times above an improvement.

    Args:
        first_only, second_only: images that only one of the two got right, any shape; they need not be whole.
        n: all images, a shape that fits, no fewer than these together; where it is 0 the interval is [-1, 1].
        confidence: two-sided.
    """
    b, c, images = _tables(first_only, second_only, n)
    alpha = one_sided(confidence)
    return Limits(_lowest(b, c, images, alpha), -_lowest(c, b, images, alpha))


def not_above(first_only: ArrayLike, second_only: ArrayLike, n: ArrayLike, least: ArrayLike) -> Floats:
    """One-sided p-value for "the first is better than the second by more than `least`".

    At most alpha exactly where the lower limit of `difference` at that alpha is at least `least`: where it is small,
    the difference is not `least` or less. "The first is worse than the second by more than a drop" is
    `not_above(second_only, first_only, n, drop)`.

    Args:
        first_only, second_only, n: as of `difference`.
        least: a difference in [-1, 1], a shape that fits.
    """
    tables = _tables(first_only, second_only, n)
    b, c, images, bound = np.broadcast_arrays(*tables, np.asarray(least, float))
    parts = [
        _distribution(*(array.ravel()[at : at + BLOCK] for array in (b, c, images)))(bound.ravel()[at : at + BLOCK])
        for at in range(0, b.size, BLOCK)
    ]
    return np.concatenate([np.empty(0), *parts]).reshape(b.shape)[()]


def tango(first_only: ArrayLike, second_only: ArrayLike, n: ArrayLike, confidence: float) -> Limits:
    """Score interval of the difference of two proportions of the same images (Tango 1998, Statist. Med. 17:891-908).

    It is right on average and not in every case (see `difference`), so the gate shows nothing by it.

    Args:
        first_only, second_only: images that only one of the two got right, any shape; they need not be whole.
        n: all images, at least 1, a shape that fits.
        confidence: two-sided.
    """
    b, c, images = _tables(first_only, second_only, n)
    z = -special.ndtri(one_sided(confidence))
    low = _bisect(b.shape, lambda d: tango_score(b, c, images, d) >= z)
    high = _bisect(b.shape, lambda d: tango_score(c, b, images, d) >= z)
    return Limits(low[()], -high[()])


def tango_score(first_only: Floats, second_only: Floats, n: Floats, difference: Floats) -> Floats:
    """Tango's statistic: how many standard errors the measured difference lies above `difference`.

    The standard error is that of the likeliest table with this difference. Arrays of shapes that fit.
    """
    b, c, d = first_only, second_only, difference
    linear = (2 * n - b + c) * d - b - c
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0))
    second = np.maximum(root - linear, 0) / (4 * n)
    variance = n * np.maximum(2 * second + d * (1 - d), 0)
    score: Floats = (b - c - n * d) / np.sqrt(np.maximum(variance, 1e-300))
    return score


def _tables(first_only: ArrayLike, second_only: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats, Floats]:
    b, c, images = np.broadcast_arrays(*(np.asarray(value, float) for value in (first_only, second_only, n)))
    if np.any((b < 0) | (c < 0) | (b + c > images * (1 + 1e-12))):
        raise ValueError("the images that only one got right are fewer than 0, or more than all images")
    return np.where(b > NOTHING, b, 0.0), np.where(c > NOTHING, c, 0.0), images


def _lowest(b: Floats, c: Floats, n: Floats, alpha: float) -> Floats:
    flat_b, flat_c, flat_n = b.ravel(), c.ravel(), n.ravel()
    blocks = [slice(at, at + BLOCK) for at in range(0, b.size, BLOCK)]
    parts = [_limit(flat_b[block], flat_c[block], flat_n[block], alpha) for block in blocks]
    return np.concatenate([np.empty(0), *parts]).reshape(b.shape)[()]


def _limit(b: Floats, c: Floats, n: Floats, alpha: float) -> Floats:
    probability = _distribution(b, c, n)
    low = _bisect(b.shape, lambda d: probability(d) <= alpha)
    # Rounding must not decide what McNemar's test decides exactly.
    above = mcnemar(b, c) <= alpha
    return np.where(above, np.maximum(low, np.finfo(float).tiny), np.minimum(low, 0.0))


def _distribution(b: Floats, c: Floats, n: Floats) -> Probability:
    """P(u - v <= d) as a function of d, where (u, v, rest) is Dirichlet with (b, c + 1, n - b - c); arrays [m]."""
    rest = np.maximum(n - b - c, 0)
    alone = (b == 0) | (rest == 0)
    first = (b >= 1) & (b <= c)
    parts = ((alone, _alone), (~alone & first, _by_first), (~alone & ~first, _by_second))
    pieces = [(chosen, of(b[chosen], c[chosen], rest[chosen])) for chosen, of in parts]

    def probability(d: Floats) -> Floats:
        result = np.empty(b.shape)
        for chosen, piece in pieces:
            result[chosen] = piece(d[chosen])
        return result

    return probability


def _alone(b: Floats, c: Floats, rest: Floats) -> Probability:
    """Where only one of u and v varies: u is 0, or u + v is 1."""
    share, other = np.where(b > 0, b, 1), np.where(rest > 0, rest, 1)

    def probability(d: Floats) -> Floats:
        whole = np.where(b > 0, special.betainc(share, c + 1, np.clip((1 + d) / 2, 0, 1)), 1.0)
        return np.where(rest > 0, special.betaincc(c + 1, other, np.clip(-d, 0, 1)), whole)

    return probability


# The other two are the mean over one variable of the conditional distribution of the other, which takes a beta
# variable's share of what is left. The one is that which varies less; but not u where b < 1 gives its density a pole.


def _by_first(b: Floats, c: Floats, rest: Floats) -> Probability:
    """Over u: P(v >= u - d), which is 1 up to u = d and 0 from u = (1 + d) / 2."""
    over = _mean(b, c + 1 + rest)
    shape, other = (c + 1)[:, np.newaxis], rest[:, np.newaxis]

    def probability(d: Floats) -> Floats:
        start = np.clip(d, 0, 1)
        points, weights = over(start, (1 + d) / 2)
        tail = special.betaincc(shape, other, np.clip((points - d[:, np.newaxis]) / (1 - points), 0, 1))
        return np.asarray(special.betainc(b, c + 1 + rest, start) + np.sum(weights * tail, axis=1))

    return probability


def _by_second(b: Floats, c: Floats, rest: Floats) -> Probability:
    """Over v: P(u <= v + d), which is 0 up to v = -d and 1 from v = (1 - d) / 2."""
    over = _mean(c + 1, b + rest)
    shape, other = b[:, np.newaxis], rest[:, np.newaxis]

    def probability(d: Floats) -> Floats:
        end = np.clip((1 - d) / 2, 0, 1)
        points, weights = over(np.clip(-d, 0, 1), end)
        below = special.betainc(shape, other, np.clip((points + d[:, np.newaxis]) / (1 - points), 0, 1))
        return np.asarray(special.betaincc(c + 1, b + rest, end) + np.sum(weights * below, axis=1))

    return probability


def _mean(shape: Floats, other: Floats) -> Callable[[Floats, Floats], tuple[Floats, Floats]]:
    """Points and weights [m, nodes] of the mean over a beta variable between two ends."""
    least, most = special.betaincinv(shape, other, NEGLIGIBLE), special.betainccinv(shape, other, NEGLIGIBLE)
    scale = special.betaln(shape, other)[:, np.newaxis]
    a, b = (shape - 1)[:, np.newaxis], (other - 1)[:, np.newaxis]

    def over(low: Floats, high: Floats) -> tuple[Floats, Floats]:
        start = np.maximum(low, least)
        length = np.maximum(np.minimum(high, most) - start, 0)[:, np.newaxis]
        points = np.clip(start[:, np.newaxis] + length * PLACES, 1e-300, 1 - 1e-16)
        density = np.exp(special.xlogy(a, points) + special.xlog1py(b, -points) - scale)
        return points, density * length * WEIGHTS

    return over


def _bisect(shape: tuple[int, ...], shown: Callable[[Floats], NDArray[np.bool_]]) -> Floats:
    """The highest difference that is shown: `shown` holds below it."""
    low, high = np.full(shape, -1.0), np.full(shape, 1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        right = shown(middle)
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    return low
