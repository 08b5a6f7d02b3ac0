"""The gate: evidence and policy in, verdict out."""

from assay.gate.judging import judge
from assay.gate.verdict import Decision, Finding, Verdict

__all__ = ["Decision", "Finding", "Verdict", "judge"]
