"""Recall of the dangerous class where its false alarms are rationed."""

import numpy as np

from assay.config import OperatingPoint
from assay.gate.rules.case import Case
from assay.gate.rules.measured import Interval, Measured, TooFewGroups, at_least, unmeasured, worth
from assay.gate.statistics.clusters import PROPORTION
from assay.gate.statistics.clusters import design as of_groups
from assay.gate.statistics.operating import recall_at_rate
from assay.gate.statistics.proportions import limits
from assay.gate.verdict import Decision, Finding, stopping
from assay.gate.words import bound

RULE = "operating_point"


def operating_point(case: Case, asked: OperatingPoint | None) -> list[Finding]:
    """Recall at a threshold that is shown to keep the false-positive rate, by the lower end of its interval."""
    if asked is None:
        return []
    answers, subject = case.candidate, f"recall of {asked.label!r}"
    if asked.label not in answers.labels:
        text = f"the policy asks for the recall of {asked.label!r}, which is no class of the data"
        return [stopping(Decision.REFUSE, RULE, subject, text)]
    column = answers.labels.index(asked.label)
    own, scores = answers.targets == column, answers.probabilities[:, column]
    if not own.any():
        return [unmeasured(RULE, subject, "it has no test image")]
    if own.all():
        return [unmeasured(RULE, subject, "no test image is of another class")]
    return [_recall(case, asked, own, scores)]


def _recall(case: Case, asked: OperatingPoint, own: np.ndarray, scores: np.ndarray) -> Finding:
    subject = f"recall of {asked.label!r} at {bound(asked.max_false_positive_rate)} false alarms"
    try:
        divisors = _divisor(case, own), _divisor(case, ~own)
    except TooFewGroups as reason:
        return unmeasured(RULE, subject, reason)
    found = recall_at_rate(scores[own], scores[~own], asked.max_false_positive_rate, case.confidence, divisors)
    if not found.enough or found.measured is None:
        few = f"{found.negatives:,} images of the other classes cannot show that rate; {found.negatives_needed:,} would"
        return unmeasured(RULE, subject, few)
    hits, positives, measured = found.hits, found.positives, found.measured
    halved = 1 - (1 - case.confidence) / 2

    def at(factor: float) -> Interval:
        low, high = limits(hits * factor / divisors[0], positives * factor / divisors[0], halved)
        return float(low), float(high)

    unit = f"test images of {asked.label!r}"
    method = "order statistic and Clopper-Pearson"
    return at_least(RULE, subject, Measured(measured, at, positives, unit, method, case.confidence), asked.recall)


def _divisor(case: Case, part: np.ndarray) -> float:
    right, groups = case.candidate.right[part], case.candidate.groups[part]
    return worth(of_groups(right, np.ones(len(right)), groups, PROPORTION, case.confidence, seed=0))
