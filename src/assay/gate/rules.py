"""What a policy can ask for. Each rule takes sound answers and gives findings.

One principle holds for all of them: the lower end of the interval must reach the bound. Where only the measured value
does, the test split is too small to show it (INSUFFICIENT_DATA, with the number of images that would be enough if what
was measured stayed as it is); where not even that does, the candidate is not good enough (HOLD).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.config import ChampionRule, Floors
from assay.evaluation.intervals import mean_of_proportions, paired_difference, wilson
from assay.gate.soundness import Answers
from assay.gate.verdict import Decision, Finding, stopping
from assay.gate.words import bound, decimals, margin, percent, points

LARGEST_FACTOR = 2.0**24
"""Beyond so many times the images, the answer to "how many would be enough" is "no number"."""

ROUNDED = 9
"""Decimals of the numbers in a finding: the last bits of a root differ between machines, and with them the digest."""

Interval = tuple[float, float]
Ints = NDArray[np.int64]


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

    @property
    def interval(self) -> Interval:
        """Lower and upper end for the images that there are."""
        return self.at(1.0)

    def shortfall(self, least: float) -> str:
        """That the images do not show a value above `least`, and how many would."""
        factor = 1.0
        while self.at(factor)[0] <= least and factor < LARGEST_FACTOR:
            factor *= 2
        below = factor / 2
        for _ in range(20):
            middle = (below + factor) / 2
            below, factor = (below, middle) if self.at(middle)[0] > least else (middle, factor)
        enough = f"about {_rounded_up(factor * self.images):,} would" if factor < LARGEST_FACTOR else "no number would"
        return f"{self.images:,} {self.unit} do not show it ({enough}, at the same measured value)"


def floors(answers: Answers, asked: Floors, confidence: float) -> list[Finding]:
    """Absolute bounds on accuracy, balanced accuracy and the recall of classes."""
    k = len(answers.labels)
    support = np.bincount(answers.targets, minlength=k)
    hits = np.bincount(answers.targets[answers.right], minlength=k)
    findings = []
    if asked.accuracy is not None:
        accuracy = _proportion(int(hits.sum()), len(answers), "test images", confidence)
        findings.append(_floor("floor.accuracy", "accuracy", accuracy, asked.accuracy))
    if asked.balanced_accuracy is not None:
        findings.append(_balanced(hits, support, asked.balanced_accuracy, confidence))
    counts = {label: (int(h), int(s)) for label, h, s in zip(answers.labels, hits, support, strict=True)}
    findings += [_recall(label, counts, least, confidence) for label, least in sorted(asked.recall.items())]
    return findings


def comparison(candidate: Answers, champion: Answers, against: str, asked: ChampionRule, confidence: float) -> Finding:
    """Difference of the accuracies on the same images, candidate less champion (Newcombe 1998, method 10).

    Args:
        candidate, champion: answers for the same images in the same order.
        against: how the champion is called in the finding.
        asked: the rule.
        confidence: level of the interval.
    """
    difference = _difference(candidate.right, champion.right, confidence)
    superior = asked.rule == "superior"
    least = asked.margin if superior else -asked.margin
    low = difference.interval[0]
    outcome = _outcome(difference.value, low > least if superior else low >= least, least)
    wanted = ("better by more than " if superior else "not worse by more than ") + margin(asked.margin)
    if outcome is Decision.INSUFFICIENT_DATA:
        text = f"{wanted} as measured, but {difference.shortfall(least)}"
    else:
        text = f"this is {wanted}" if outcome is Decision.PROMOTE else f"it should be {wanted}"
    sentence = f"accuracy against {against}: {_points(difference, least)}; {text}"
    return _finding(asked.rule, against, difference, least, outcome, sentence)


def _proportion(successes: int, n: int, unit: str, confidence: float) -> Measured:
    def at(factor: float) -> Interval:
        low, high = wilson(successes * factor, n * factor, confidence)
        return float(low), float(high)

    return Measured(successes / n, at, n, unit, "Wilson")


def _balanced(hits: Ints, support: Ints, least: float, confidence: float) -> Finding:
    rule, subject = "floor.balanced_accuracy", "balanced accuracy"
    if absent := int(np.count_nonzero(support == 0)):
        text = f"balanced accuracy cannot be measured: {absent:,} of {len(support):,} classes have no test image"
        return stopping(Decision.INSUFFICIENT_DATA, rule, subject, text)

    def at(factor: float) -> Interval:
        return mean_of_proportions(hits * factor, support * factor, confidence)

    method = "Wilson, effective sample size"
    measured = Measured(float(np.mean(hits / support)), at, int(support.sum()), "test images", method)
    return _floor(rule, subject, measured, least)


def _recall(label: str, counts: dict[str, tuple[int, int]], least: float, confidence: float) -> Finding:
    rule, subject = "floor.recall", f"recall of {label!r}"
    if label not in counts:
        known = ", ".join(map(repr, sorted(counts)[:10]))
        text = f"the policy asks for the recall of {label!r}, which is no class of the data; its classes: {known}"
        return stopping(Decision.REFUSE, rule, subject, text)
    hits, support = counts[label]
    if not support:
        text = f"the recall of {label!r} cannot be measured: it has no test image"
        return stopping(Decision.INSUFFICIENT_DATA, rule, subject, text)
    return _floor(rule, subject, _proportion(hits, support, f"test images of {label!r}", confidence), least)


def _difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], confidence: float) -> Measured:
    cells = (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)
    both, first, second, neither = (int(np.count_nonzero(cell)) for cell in cells)

    def at(factor: float) -> Interval:
        return paired_difference(both * factor, first * factor, second * factor, neither * factor, confidence)

    return Measured((first - second) / len(ours), at, len(ours), "test images", "Newcombe 1998, method 10")


def _floor(rule: str, subject: str, measured: Measured, least: float) -> Finding:
    low, high = measured.interval
    outcome = _outcome(measured.value, low >= least, least)
    digits = decimals(low, high, least)
    sentence = f"{subject} {percent(measured.value, digits)} [{100 * low:.{digits}f}, {100 * high:.{digits}f}] "
    if outcome is Decision.PROMOTE:
        sentence += f"is at least {bound(least)}"
    elif outcome is Decision.INSUFFICIENT_DATA:
        sentence += f"is above {bound(least)}, but {measured.shortfall(least)}"
    else:
        sentence += f"is {'below' if measured.value < least else 'not above'} {bound(least)}"
    return _finding(rule, subject, measured, least, outcome, sentence)


def _outcome(value: float, reached: bool, least: float) -> Decision:
    """`reached`: whether the lower end does what is asked."""
    if reached:
        return Decision.PROMOTE
    return Decision.INSUFFICIENT_DATA if value > least else Decision.HOLD


def _points(difference: Measured, least: float) -> str:
    low, high = difference.interval
    digits = decimals(low, high, least)
    return f"{points(difference.value, digits)} points [{points(low, digits)}, {points(high, digits)}]"


def _finding(rule: str, subject: str, measured: Measured, least: float, outcome: Decision, sentence: str) -> Finding:
    low, high = measured.interval
    return Finding(
        rule=rule,
        subject=subject,
        measured=round(measured.value, ROUNDED),
        low=round(low, ROUNDED),
        high=round(high, ROUNDED),
        bound=least,
        method=measured.method,
        passed=outcome is Decision.PROMOTE,
        outcome=outcome,
        sentence=sentence,
    )


def _rounded_up(images: float) -> int:
    """To two significant digits: more would be a precision that the estimate does not have."""
    unit: int = 10 ** max(math.floor(math.log10(images)) - 1, 0)
    return math.ceil(images / unit) * unit
