"""Whether the model knows when it does not know."""

import numpy as np
import pyarrow.compute as pc

from assay.config import Abstention
from assay.evaluation.intervals import auroc
from assay.evaluation.predictions import probabilities
from assay.gate.rules.case import Case
from assay.gate.rules.measured import Interval, Measured, TooFewGroups, at_least, share, unasked, unmeasured
from assay.gate.verdict import Finding
from assay.models.abstention import answered, in_set


def abstention(case: Case, asked: Abstention) -> list[Finding]:
    """Coverage of the conformal sets, share of images that get an answer, and AUROC against unfamiliar images."""
    findings = []
    for name, least in (("coverage", asked.coverage), ("answered", asked.answered)):
        if least is not None:
            findings.append(_by_threshold(case, name, least))
    if asked.unfamiliar_auroc is not None:
        findings.append(_unfamiliar(case, asked.unfamiliar_auroc))
    return findings


def _by_threshold(case: Case, name: str, least: float) -> Finding:
    rule, fitted = f"abstention.{name}", case.meta.abstention
    subject = "conformal coverage" if name == "coverage" else "share of images that get an answer"
    if fitted is None:
        return unasked(rule, subject, "the bundle has no threshold of abstention; export it again")
    answers = case.candidate
    inside = in_set(answers.probabilities, fitted.threshold)
    hits = inside[np.arange(len(answers)), answers.targets] if name == "coverage" else answered(inside)
    try:
        measured = share(hits, answers.groups, "test images", case.confidence)
    except TooFewGroups as reason:
        return unmeasured(rule, subject, reason)
    return at_least(rule, subject, measured, least)


def _unfamiliar(case: Case, least: float) -> Finding:
    rule, subject = "abstention.unfamiliar", "AUROC of confidence against unfamiliar images"
    rows = case.challenges.filter(pc.field("kind") == "unfamiliar") if case.challenges is not None else None
    if rows is None or not rows.num_rows:
        return unasked(rule, subject, "set `challenges.unfamiliar` to a number of images and evaluate again")
    ours = case.candidate.probabilities.max(axis=1)
    theirs = probabilities(rows, len(case.candidate.labels)).max(axis=1)
    area = _area(ours, theirs)

    def at(factor: float) -> Interval:
        ends = auroc(area, len(ours) * factor, len(theirs) * factor, case.confidence)
        return float(ends.low), float(ends.high)

    measured = Measured(area, at, len(ours), "test images", "Newcombe 2006", case.confidence)
    return at_least(rule, subject, measured, least)


def _area(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of the pairs in which the familiar image has the higher confidence; ties count half."""
    ordered = np.sort(theirs)
    below = np.searchsorted(ordered, ours, "left") + np.searchsorted(ordered, ours, "right")
    return float(below.mean() / (2 * len(theirs)))
