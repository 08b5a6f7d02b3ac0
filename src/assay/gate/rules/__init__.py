"""What a policy can ask for, a room a kind of rule: each takes a case and its part of the policy, and gives findings.

One principle holds for all that measure: the end of the interval must reach the bound, not the measured value. Where
only the measured value does, the test split is too small to show it (INSUFFICIENT_DATA, with the number of images that
would be enough if what was measured stayed as it is); where not even that does, the candidate is not good enough
(HOLD). What cannot be measured at all is refused, or asks for data.
"""

from assay.gate.rules.abstention import abstention
from assay.gate.rules.budgets import budgets
from assay.gate.rules.calibration import calibration
from assay.gate.rules.case import Case
from assay.gate.rules.comparison import comparison
from assay.gate.rules.floors import floors
from assay.gate.rules.operating import operating_point
from assay.gate.rules.robustness import behaviour, corruptions
from assay.gate.rules.slices import slices

__all__ = [
    "Case",
    "abstention",
    "behaviour",
    "budgets",
    "calibration",
    "comparison",
    "corruptions",
    "floors",
    "operating_point",
    "slices",
]
