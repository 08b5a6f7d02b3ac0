"""Parts of the test split on which the candidate must not fail."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.config import Slice, Slices
from assay.errors import ConfigError
from assay.evaluation.slices import members, resolve
from assay.gate.rules.case import Case
from assay.gate.rules.measured import Measured, TooFewGroups, finding, share, unasked
from assay.gate.statistics.clusters import DIFFERENCE, PROPORTION
from assay.gate.statistics.clusters import design as of_groups
from assay.gate.statistics.multiplicity import holm
from assay.gate.statistics.paired import not_above
from assay.gate.statistics.proportions import below
from assay.gate.verdict import Decision, Finding, passing
from assay.gate.words import bound, margin, percent


@dataclass(frozen=True)
class _Test:
    """One question to one slice: whether it is significantly bad."""

    name: str
    measured: Measured
    asked: float
    failing: str
    p: float


def slices(case: Case, asked: Slices) -> list[Finding]:
    """A finding a slice and question; what is significantly bad stands in the way, what is too small is only told.

    The tests are made at the policy's own level, Holm-corrected over all of them: a look at the test set spends what a
    promotion may risk, and must not make a veto weaker.
    """
    if not asked.of:
        return []
    if case.attributes is None:
        return [unasked("slice", "slices", "the evidence has no attributes of the images; evaluate again")]
    try:
        chosen = resolve(asked, case.attributes.column_names)
    except ConfigError as error:
        return [unasked("slice", "slices", str(error))]
    labels = np.asarray(case.candidate.labels, dtype=object)[case.candidate.targets]
    told: list[Finding] = []
    tests: list[_Test] = []
    # Groups weigh more the less may go wrong, which after Holm's correction is alpha over the number of tests.
    level = 1 - (1 - case.base_confidence) / (2 * len(chosen))
    for part in chosen:
        inside = members(part, case.attributes, labels)
        count = int(np.count_nonzero(inside))
        if count < asked.min_images:
            told.append(_small(case, part, inside, asked))
        else:
            tests += _tests(case, part, inside, asked, level)
    adjusted = holm(np.array([test.p for test in tests]))
    alpha = (1 - case.base_confidence) / 2
    return [*(_judged(test, float(p), alpha) for test, p in zip(tests, adjusted, strict=True)), *told]


def _small(case: Case, part: Slice, inside: NDArray[np.bool_], asked: Slices) -> Finding:
    count = int(np.count_nonzero(inside))
    accuracy = f", accuracy {percent(float(case.candidate.right[inside].mean()))}" if count else ""
    images = "1 image" if count == 1 else f"{count:,} images"
    text = f"slice {part.name}: {images}{accuracy}; fewer than {asked.min_images:,}, so only told"
    return passing("slice", part.name, text)


def _tests(case: Case, part: Slice, inside: NDArray[np.bool_], asked: Slices, level: float) -> list[_Test]:
    right, groups = case.candidate.right[inside], case.candidate.groups[inside]
    try:
        measured = share(right, groups, f"images of {part.name}", case.base_confidence)
    except TooFewGroups:  # a veto may rest on as little as this: it errs towards caution
        measured = share(right, np.arange(len(right)), f"images of {part.name}", case.base_confidence)
    tests = []
    if asked.accuracy is not None:
        p = _below(right, groups, asked.accuracy, level)
        tests.append(_Test(part.name, measured, asked.accuracy, f"below {bound(asked.accuracy)}", p))
    if asked.max_drop is not None and case.champion is not None:
        theirs = case.champion.right[inside]
        p = _dropped(right, theirs, groups, asked.max_drop, level)
        by = f"worse than {case.rival} ({percent(float(theirs.mean()))}) by more than {margin(asked.max_drop)}"
        tests.append(_Test(part.name, measured, -asked.max_drop, by, p))
    return tests


def _below(right: NDArray[np.bool_], groups: NDArray[np.int64], floor: float, confidence: float) -> float:
    divisor = of_groups(right, np.ones(len(right)), groups, PROPORTION, confidence, seed=0).divisor
    return float(below(int(right.sum()) / divisor, len(right) / divisor, floor))


def _dropped(
    right: NDArray[np.bool_], theirs: NDArray[np.bool_], groups: NDArray[np.int64], drop: float, confidence: float
) -> float:
    apart = right.astype(float) - theirs
    divisor = of_groups(apart, np.ones(len(right)), groups, DIFFERENCE, confidence, seed=0).divisor
    lost, won = (int(np.count_nonzero(cell)) / divisor for cell in (theirs & ~right, right & ~theirs))
    return float(not_above(lost, won, len(right) / divisor, drop))


def _judged(test: _Test, p: float, alpha: float) -> Finding:
    outcome = Decision.HOLD if p <= alpha else Decision.PROMOTE
    verb = "is" if outcome is Decision.HOLD else "is not shown to be"
    text = (
        f"slice {test.name}: accuracy {percent(test.measured.value)} of {test.measured.images:,} images {verb} "
        f"{test.failing} (p = {p:.2g}, corrected)"
    )
    return finding("slice", test.name, test.measured, test.asked, outcome, text, p)
