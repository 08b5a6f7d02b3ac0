"""What the candidate says when images get worse, or are shown another way."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.config import Behaviour, Corruptions
from assay.evaluation.predictions import probabilities
from assay.gate.rules.case import Case
from assay.gate.rules.measured import TooFewGroups, at_least, share, unasked, unmeasured
from assay.gate.verdict import Finding

LOWER_CONTRAST = "lower_contrast"
TOLERANCE = 0.01
"""By so much a confidence may rise, of 1, and still count as not risen."""


def corruptions(case: Case, asked: Corruptions | None) -> list[Finding]:
    """Of the right answers to clean images, the share that survives: over all corruptions and severities."""
    if asked is None:
        return []
    rule, subject = "corruptions", "right answers that survive corruption"
    rows = _rows(case, "corruption")
    if rows is None:
        return [unasked(rule, subject, "name some in `challenges.corruptions` and evaluate again")]
    places, n = _places(case, rows), len(case.candidate)
    right = np.asarray(pc.equal(rows["predicted"], rows["label"]), dtype=float)
    times = np.bincount(places, minlength=n)
    kept = np.flatnonzero((times > 0) & case.candidate.right)
    if not len(kept):
        return [unmeasured(rule, subject, "no image was right when it was clean")]
    survived = np.bincount(places, weights=right, minlength=n)[kept] / times[kept]
    try:
        measured = share(survived, case.candidate.groups[kept], "images", case.confidence)
    except TooFewGroups as reason:
        return [unmeasured(rule, subject, reason)]
    return [at_least(rule, subject, measured, asked.min_relative_accuracy)]


def behaviour(case: Case, asked: Behaviour) -> list[Finding]:
    """Flips and turns that must not change the answer, lower contrast that must not raise confidence."""
    if asked.invariance is None and asked.contrast is None:
        return []
    rows = _rows(case, "behaviour")
    if rows is None:
        return [unasked("behaviour", "behaviour", "set `challenges.behaviour: true` and evaluate again")]
    findings = []
    for name in sorted(pc.unique(rows["name"]).to_pylist()):
        part = rows.filter(pc.field("name") == name)
        least = asked.contrast if name == LOWER_CONTRAST else asked.invariance
        if least is not None:
            findings.append(_behaves(case, name, part, least))
    return findings


def _behaves(case: Case, name: str, rows: pa.Table, least: float) -> Finding:
    places = _places(case, rows)
    if name == LOWER_CONTRAST:
        rule, subject = "behaviour.contrast", "share whose confidence does not rise with lower contrast"
        held = _confidence(case, rows) <= case.candidate.probabilities[places].max(axis=1) + TOLERANCE
    else:
        rule, subject = "behaviour.invariance", f"share of answers that stay after {name.replace('_', ' ')}"
        names = np.asarray(case.candidate.labels, dtype=object)
        held = np.asarray(rows["predicted"].to_pylist(), dtype=object) == names[case.candidate.predicted[places]]
    try:
        measured = share(held, case.candidate.groups[places], "test images", case.confidence)
    except TooFewGroups as reason:
        return unmeasured(rule, subject, reason)
    return at_least(rule, subject, measured, least)


def _rows(case: Case, kind: str) -> pa.Table | None:
    if case.challenges is None:
        return None
    rows = case.challenges.filter(pc.field("kind") == kind)
    return rows if rows.num_rows else None


def _places(case: Case, rows: pa.Table) -> NDArray[np.int64]:
    """Where the images of `rows` stand in the test split."""
    found = pc.index_in(rows["uri"], value_set=pa.array(case.uris, pa.string()))
    places: NDArray[np.int64] = found.to_numpy().astype(np.int64)
    return places


def _confidence(case: Case, rows: pa.Table) -> NDArray[np.float32]:
    highest: NDArray[np.float32] = probabilities(rows, len(case.candidate.labels)).max(axis=1)
    return highest
