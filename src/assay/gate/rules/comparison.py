"""Candidate against champion, on the same images."""

import numpy as np

from assay.config import ChampionRule
from assay.gate.rules.case import Case
from assay.gate.rules.measured import Interval, Measured, TooFewGroups, finding, method_of, unmeasured, worth
from assay.gate.soundness import Answers
from assay.gate.statistics.clusters import DIFFERENCE
from assay.gate.statistics.clusters import design as of_groups
from assay.gate.statistics.paired import difference, mcnemar
from assay.gate.verdict import Decision, Finding
from assay.gate.words import decimals, margin, points


def comparison(case: Case, asked: ChampionRule) -> Finding:
    """Difference of the accuracies, candidate less champion; `case` has a champion."""
    superior = asked.rule == "superior"
    least = asked.min_improvement if superior else -asked.margin
    try:
        measured = _difference(case)
    except TooFewGroups as reason:
        return unmeasured(asked.rule, f"accuracy against {case.rival}", reason)

    def shown(ends: Interval) -> bool:
        return ends[0] > least if superior else ends[0] >= least

    if shown(measured.interval):
        outcome = Decision.PROMOTE
    else:
        outcome = Decision.INSUFFICIENT_DATA if measured.value > least else Decision.HOLD
    wanted = _wanted(asked)
    if outcome is Decision.INSUFFICIENT_DATA:
        text = f"{wanted} as measured, but {measured.shortfall(shown)}"
    else:
        text = f"this is {wanted}" if outcome is Decision.PROMOTE else f"it should be {wanted}"
    sentence = f"accuracy against {case.rival}: {_points(measured, least)}; {text}"
    p_value = None if case.candidate.clustered or least else float(mcnemar(*_discordant(case)))
    return finding(asked.rule, case.rival, measured, least, outcome, sentence, p_value)


def _wanted(asked: ChampionRule) -> str:
    if asked.rule == "non_inferior":
        return f"not worse by more than {margin(asked.margin)}"
    return f"better by more than {margin(asked.min_improvement)}" if asked.min_improvement else "better"


def _difference(case: Case) -> Measured:
    n, (first, second) = len(case.candidate), _discordant(case)
    apart = case.candidate.right.astype(float) - _champion(case).right
    design = of_groups(apart, np.ones(n), case.candidate.groups, DIFFERENCE, case.confidence, seed=0)
    divisor = worth(design)

    def at(factor: float) -> Interval:
        times = factor / divisor
        low, high = difference(first * times, second * times, n * times, case.confidence)
        return float(low), float(high)

    method = method_of("exact, paired; McNemar's at 0", design)
    return Measured((first - second) / n, at, n, "test images", method, case.confidence)


def _discordant(case: Case) -> tuple[int, int]:
    """Images that only the candidate, and only the champion, got right."""
    ours, theirs = case.candidate.right, _champion(case).right
    return int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))


def _champion(case: Case) -> Answers:
    if case.champion is None:
        raise ValueError("a comparison takes a champion")
    return case.champion


def _points(measured: Measured, least: float) -> str:
    low, high = measured.interval
    digits = decimals(low, high, least)
    return f"{points(measured.value, digits)} points [{points(low, digits)}, {points(high, digits)}]"
