"""What a test set can show, and how many images would be enough, before anything is measured on it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from scipy.interpolate import PchipInterpolator

from assay.gate.statistics.paired import not_above
from assay.gate.statistics.proportions import Floats, one_sided

MOST_IMAGES = 10**8
"""Beyond so many images, the answer to "how many would be enough" is "no number"."""

KNOTS = 12
"""Numbers of disagreements for which the critical table is computed; between them it is interpolated."""

FEW = 40
"""Up to so many numbers of disagreements, it is computed for every one."""

SPREAD = 5.0
"""Standard deviations of the number of disagreements that are summed over: all but 6e-7 of the cases."""

TOLERANCE = 0.005
"""Of a number of images or a margin, relative: the search does not go further."""


class Question(NamedTuple):
    """What is asked of two models, and what they are supposed to be."""

    least: float
    """The difference that has to be shown: minus the margin, or the improvement."""
    difference: float
    """The true one."""
    discordance: float
    """Share of the images that only one of the two gets right, at least the absolute difference."""
    confidence: float


def power_of_difference(n: int, question: Question) -> float:
    """Chance that `paired.difference` shows what is asked with n images.

    A sum over the number of disagreements and, given it, over the binomial number of those won by the first.
    """
    share = _clamped(question)
    if share == 0:
        return float(not_above(0, 0, n, question.least) <= one_sided(question.confidence))
    centre, spread = n * share, SPREAD * math.sqrt(n * share * (1 - share)) + 3
    disagreements = np.arange(max(0, math.floor(centre - spread)), min(n, math.ceil(centre + spread)) + 1)
    needed = _critical(disagreements, n, question)
    won = stats.binom.sf(np.ceil(needed - 1e-9) - 1, disagreements, (1 + question.difference / share) / 2)
    return float(np.sum(stats.binom.pmf(disagreements, n, share) * won))


def smallest_difference(n: int, discordance: float, confidence: float, power: float) -> float:
    """The smallest margin for which an equally good model is shown non-inferior with this power; 1 at most.

    Args:
        n: images, at least 1.
        discordance: share of the images that only one of the two models gets right, in [0, 1].
        confidence: two-sided.
        power: chance to show it, above 0 and below 1.
    """
    high = min(1.0, 1.1 * _normal_margin(n, discordance, confidence, power))

    def enough(margin: float) -> bool:
        return power_of_difference(n, Question(-margin, 0.0, discordance, confidence)) >= power

    low = 0.0
    while high < 1 and not enough(high):
        low, high = high, min(1.0, 1.5 * high)
    if not low and not enough(high / 1.3):
        low = high / 1.3
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def images_needed(
    least: float, discordance: float, confidence: float, power: float, difference: float = 0.0
) -> int | None:
    """Images with which a model that is better by `difference` is shown to be better than `least` with this power.

    Exact, by `power_of_difference`; the search starts at the normal approximation (Connor 1987, Biometrics 43:207-211;
    Lu & Bean 1995, Statist. Med. 14:1831-1839) and stops within 0.5%.

    Args:
        least: minus the margin of non-inferiority, or the improvement to be shown.
        discordance: share of the images that only one of the two models gets right, in [0, 1]; where it is less than
            the difference implies, that is taken.
        confidence: two-sided.
        power: chance to show it, above 0 and below 1.
        difference: the true one, in [-1, 1]; 0 for an equally good model.

    Returns:
        None where no number would do.
    """
    if difference <= least:
        return None
    question = Question(least, difference, discordance, confidence)
    start = _normal_images(question, power)
    return _smallest(lambda n: power_of_difference(n, question) >= power, start)


def images_needed_for_floor(bound: float, expected: float, confidence: float, power: float) -> int | None:
    """Images with which the exact lower limit of a proportion reaches `bound` with this power.

    Args:
        bound: the floor, in [0, 1].
        expected: the true proportion, in [0, 1].
        confidence: two-sided.
        power: chance to show it, above 0 and below 1.

    Returns:
        None where no number would do.
    """
    if bound <= 0:
        return 0
    if expected <= bound:
        return None
    alpha = one_sided(confidence)
    least = math.ceil(math.log(alpha) / math.log(bound) - 1e-12)
    return _smallest(lambda n: power_of_floor(n, bound, expected, confidence) >= power, float(least))


def power_of_floor(n: int, bound: float, expected: float, confidence: float) -> float:
    """Chance that the exact lower limit of a proportion reaches `bound` with n images."""
    needed = stats.binom.ppf(1 - one_sided(confidence), n, bound) + 1
    return float(stats.binom.sf(needed - 1, n, expected))


def least_images(margin: float, confidence: float) -> int:
    """Images below which no margin can be shown, even if the two models never disagree.

    Args:
        margin: of non-inferiority, above 0.
        confidence: two-sided.
    """
    return 1 if margin >= 1 else math.ceil(math.log(one_sided(confidence)) / math.log1p(-margin) - 1e-12)


def _clamped(question: Question) -> float:
    return min(max(question.discordance, abs(question.difference)), 1.0)


def _critical(disagreements: NDArray[np.int64], n: int, question: Question) -> Floats:
    """Of so many disagreements, how many the first must win; more than there are where even all are too few."""
    count = len(disagreements)
    picked = np.linspace(0, count - 1, count if count <= FEW else KNOTS).astype(int)
    knots = disagreements[picked].astype(float)
    low, high = np.full(len(knots), -1.0), knots + 1
    # Halved down to a small share of one disagreement, whose whole number is what counts.
    for _ in range(math.ceil(math.log2(float(knots[-1]) + 2)) + 6):
        middle = (low + high) / 2
        won = np.clip(middle, 0, knots)
        enough = not_above(won, knots - won, n, question.least) <= one_sided(question.confidence)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(PchipInterpolator(knots, high)(disagreements)) if len(knots) > 1 else high


def _quantiles(confidence: float, power: float) -> tuple[float, float]:
    return -float(special.ndtri(one_sided(confidence))), float(special.ndtri(power))


def _normal_margin(n: int, discordance: float, confidence: float, power: float) -> float:
    """With a correction for whole numbers, and no less than what no disagreement at all would show."""
    z, extra = _quantiles(confidence, power)
    alone = -math.expm1(math.log(one_sided(confidence)) / n)
    return max((z + max(extra, 0.0)) * math.sqrt(discordance / n) + 1 / n, alone)


def _normal_images(question: Question, power: float) -> float:
    z, extra = _quantiles(question.confidence, power)
    distance, share = question.difference - question.least, _clamped(question)
    root = z * math.sqrt(share) + extra * math.sqrt(max(share - question.difference**2, 0.0))
    return (max(root, 0.0) / distance) ** 2 + 2 / distance


def _smallest(enough: Callable[[int], bool], start: float) -> int | None:
    """A number of images that is enough where one less (within the tolerance) is not."""
    low, high = 0, max(1, math.ceil(start))
    while high <= MOST_IMAGES and not enough(high):
        low, high = high, math.ceil(1.1 * high)
    if high > MOST_IMAGES:
        return None
    if not low and high > 1 and not enough(last := math.floor(high / 1.1)):
        low = last
    while high - low > max(1, TOLERANCE * high):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
