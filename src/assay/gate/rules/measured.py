"""From a measured value and its interval to a finding."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.gate.statistics.clusters import MIN_GROUPS, PROPORTION, Design
from assay.gate.statistics.clusters import design as of_groups
from assay.gate.statistics.proportions import limits
from assay.gate.verdict import Decision, Finding, stopping
from assay.gate.words import bound, decimals, percent

LARGEST_FACTOR = 2.0**24
"""Beyond so many times the images, the answer to "how many would be enough" is "no number"."""

ROUNDED = 9
"""Decimals of the numbers in a finding: the last bits of a root differ between machines, and with them the digest."""

Interval = tuple[float, float]
Ints = NDArray[np.int64]


class TooFewGroups(Exception):
    """The images come from so few groups that no interval can be trusted."""


@dataclass(frozen=True)
class Measured:
    """A value and its interval, also for a test split of another size."""

    value: float
    at: Callable[[float], Interval]
    """The interval if there were so many times the images, and all shares stayed."""
    images: int
    unit: str
    """What `images` counts: test images, perhaps of one class."""
    method: str
    confidence: float

    @property
    def interval(self) -> Interval:
        """Lower and upper end for the images that there are."""
        return self.at(1.0)

    def shortfall(self, enough: Callable[[Interval], bool]) -> str:
        """That the images do not show what is asked, and how many would."""
        factor = 1.0
        while not enough(self.at(factor)) and factor < LARGEST_FACTOR:
            factor *= 2
        below = factor / 2
        for _ in range(20):
            middle = (below + factor) / 2
            below, factor = (below, middle) if enough(self.at(middle)) else (middle, factor)
        told = f"about {rounded_up(factor * self.images):,} would" if factor < LARGEST_FACTOR else "no number would"
        return f"{self.images:,} {self.unit} do not show it ({told}, at the same measured value)"


def worth(design: Design) -> float:
    """What counts are divided by, because images of a group say less than as many independent ones.

    Raises:
        TooFewGroups: there are so few that no verdict may rest on them.
    """
    if not design.enough:
        few = f"its images come from {design.groups:,} groups, worth {design.effective_groups:.0f} of equal size"
        raise TooFewGroups(f"{few}; it takes {MIN_GROUPS}")
    return design.divisor


def share(hits: NDArray[Any], groups: Ints, unit: str, confidence: float) -> Measured:
    """A share of images: exact limits, for as many independent images as these are worth.

    Args:
        hits: whether each image counts, or how much of it does, [n] in [0, 1], n > 0.
        groups: group of each, [n].
        unit: what n counts.
        confidence: level, two-sided.

    Raises:
        TooFewGroups: groups have several images, and are too few.
    """
    n, successes = len(hits), float(hits.sum())
    design = of_groups(hits, np.ones(n), groups, PROPORTION, confidence, seed=0)
    divisor = worth(design)

    def at(factor: float) -> Interval:
        low, high = limits(successes * factor / divisor, n * factor / divisor, confidence)
        return float(low), float(high)

    return Measured(successes / n, at, n, unit, method_of("Clopper-Pearson", design), confidence)


def method_of(name: str, design: Design) -> str:
    """How a method is called in a finding."""
    return f"{name}, {design.groups:,} groups" if design.clustered else name


def at_least(rule: str, subject: str, measured: Measured, least: float) -> Finding:
    """Whether the lower end reaches `least`, a share."""
    return _bounded(rule, subject, measured, least, 1)


def at_most(rule: str, subject: str, measured: Measured, most: float) -> Finding:
    """Whether the upper end stays within `most`, a share."""
    return _bounded(rule, subject, measured, most, -1)


def _bounded(rule: str, subject: str, measured: Measured, asked: float, sign: int) -> Finding:
    """A finding about the worse end: the lower where more is better (`sign` 1), the upper where less is (-1)."""
    worse = 0 if sign > 0 else 1
    side, better, other = ("least", "above", "below") if sign > 0 else ("most", "below", "above")
    (low, high), ahead = measured.interval, sign * (measured.value - asked)
    outcome = _outcome(sign * ((low, high)[worse] - asked) >= 0, ahead > 0)
    digits = decimals(low, high, asked)
    sentence = f"{subject} {percent(measured.value, digits)} [{100 * low:.{digits}f}, {100 * high:.{digits}f}] is "
    if outcome is Decision.PROMOTE:
        sentence += f"at {side} {bound(asked)}"
    elif outcome is Decision.INSUFFICIENT_DATA:
        enough = measured.shortfall(lambda ends: sign * (ends[worse] - asked) > 0)
        sentence += f"{better} {bound(asked)}, but {enough}"
    else:
        sentence += f"{other if ahead < 0 else 'not ' + better} {bound(asked)}"
    return finding(rule, subject, measured, asked, outcome, sentence)


def unmeasured(rule: str, subject: str, reason: object) -> Finding:
    """That a number cannot be trusted for want of data."""
    return stopping(Decision.INSUFFICIENT_DATA, rule, subject, f"{subject} cannot be measured: {reason}")


def unasked(rule: str, subject: str, reason: str) -> Finding:
    """That the evidence does not hold what the policy asks about."""
    return stopping(Decision.REFUSE, rule, subject, f"{subject} was not measured: {reason}")


def finding(
    rule: str,
    subject: str,
    measured: Measured,
    asked: float,
    outcome: Decision,
    sentence: str,
    p_value: float | None = None,
) -> Finding:
    """A finding about a measured value, its numbers rounded to what every machine agrees on."""
    low, high = measured.interval
    return Finding(
        rule=rule,
        subject=subject,
        measured=round(measured.value, ROUNDED),
        low=round(low, ROUNDED),
        high=round(high, ROUNDED),
        bound=asked,
        method=measured.method,
        confidence=round(measured.confidence, ROUNDED),
        p_value=None if p_value is None else round(p_value, ROUNDED),
        passed=outcome is Decision.PROMOTE,
        outcome=outcome,
        sentence=sentence,
    )


def rounded_up(images: float) -> int:
    """To two significant digits: more would be a precision that the estimate does not have."""
    unit: int = 10 ** max(math.floor(math.log10(images)) - 1, 0)
    return math.ceil(images / unit) * unit


def _outcome(shown: bool, measured: bool) -> Decision:
    if shown:
        return Decision.PROMOTE
    return Decision.INSUFFICIENT_DATA if measured else Decision.HOLD
