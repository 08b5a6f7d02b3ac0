"""Absolute bounds on accuracy, balanced accuracy and the recall of classes."""

import numpy as np

from assay.config import Floors
from assay.gate.rules.case import Case
from assay.gate.rules.measured import (
    Interval,
    Measured,
    TooFewGroups,
    at_least,
    method_of,
    share,
    unmeasured,
    worth,
)
from assay.gate.soundness import Answers
from assay.gate.statistics.clusters import of_recalls
from assay.gate.statistics.proportions import balanced
from assay.gate.verdict import Decision, Finding, stopping


def floors(case: Case, asked: Floors) -> list[Finding]:
    """A finding for each floor that is given."""
    answers, findings = case.candidate, []
    if asked.accuracy is not None:
        findings.append(_accuracy(answers, asked.accuracy, case.confidence))
    if asked.balanced_accuracy is not None:
        findings.append(_balanced(answers, asked.balanced_accuracy, case.confidence))
    return findings + [_recall(answers, label, least, case.confidence) for label, least in sorted(asked.recall.items())]


def _accuracy(answers: Answers, least: float, confidence: float) -> Finding:
    rule, subject = "floor.accuracy", "accuracy"
    try:
        measured = share(answers.right, answers.groups, "test images", confidence)
    except TooFewGroups as reason:
        return unmeasured(rule, subject, reason)
    return at_least(rule, subject, measured, least)


def _recall(answers: Answers, label: str, least: float, confidence: float) -> Finding:
    rule, subject = "floor.recall", f"recall of {label!r}"
    if label not in answers.labels:
        known = ", ".join(map(repr, sorted(answers.labels)[:10]))
        text = f"the policy asks for the recall of {label!r}, which is no class of the data; its classes: {known}"
        return stopping(Decision.REFUSE, rule, subject, text)
    own = answers.targets == answers.labels.index(label)
    if not own.any():
        return unmeasured(rule, subject, "it has no test image")
    try:
        measured = share(answers.right[own], answers.groups[own], f"test images of {label!r}", confidence)
    except TooFewGroups as reason:
        return unmeasured(rule, subject, reason)
    return at_least(rule, subject, measured, least)


def _balanced(answers: Answers, least: float, confidence: float) -> Finding:
    rule, subject = "floor.balanced_accuracy", "balanced accuracy"
    k = len(answers.labels)
    support = np.bincount(answers.targets, minlength=k)
    hits = np.bincount(answers.targets[answers.right], minlength=k)
    if absent := int(np.count_nonzero(support == 0)):
        return unmeasured(rule, subject, f"{absent:,} of {k:,} classes have no test image")
    design = of_recalls(answers.right, answers.targets, answers.groups, confidence, seed=0)
    try:
        divisor = worth(design)
    except TooFewGroups as reason:
        return unmeasured(rule, subject, reason)

    def at(factor: float) -> Interval:
        return balanced(hits * factor / divisor, support * factor / divisor, confidence)

    value, method = float(np.mean(hits / support)), method_of("Clopper-Pearson of the smallest class", design)
    return at_least(rule, subject, Measured(value, at, int(support.sum()), "test images", method, confidence), least)
