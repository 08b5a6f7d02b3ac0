"""Whether the probabilities mean what they say."""

import numpy as np

from assay.config import Calibration
from assay.evaluation.calibration import calibration as calibration_error
from assay.gate.rules.case import Case
from assay.gate.rules.measured import Interval, Measured, at_most
from assay.gate.verdict import Finding


def calibration(case: Case, asked: Calibration | None) -> list[Finding]:
    """Expected calibration error of the given label, by the upper end of its bootstrap interval."""
    if asked is None:
        return []
    answers = case.candidate
    chosen = answers.probabilities[np.arange(len(answers)), answers.predicted].astype(float)
    error, _ = calibration_error(chosen, answers.right, case.confidence, seed=0)
    value, low, high = error["value"], error["low"], error["high"]

    def at(factor: float) -> Interval:
        # The error of a finite sample is too high by about as much as its spread; both fall with its root.
        shrunk = float(np.sqrt(factor))
        return value - (value - low) / shrunk, value + (high - value) / shrunk

    measured = Measured(value, at, len(answers), "test images", "bootstrap", case.confidence)
    return [at_most("calibration", "calibration error", measured, asked.max_error)]
