"""The verdict and its words."""

from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay import digests


class Decision(StrEnum):
    """What the gate can say, from best to worst: the worst finding decides."""

    PROMOTE = "PROMOTE"
    """Everything that the policy asks for is shown."""
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"
    """What was measured would do, but the test split is too small to show that it is no luck."""
    HOLD = "HOLD"
    """The evidence is sound, and the candidate is not good enough."""
    REFUSE = "REFUSE"
    """The evidence cannot be judged."""


SEVERITY = {decision: rank for rank, decision in enumerate(Decision)}

EXIT_CODES = {Decision.PROMOTE: 0, Decision.HOLD: 10, Decision.REFUSE: 11, Decision.INSUFFICIENT_DATA: 12}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Finding(_Record):
    """One rule: what was measured, what was asked for, and what follows."""

    rule: str
    """What part of the policy it is about: `floor.accuracy`, `non_inferior`, `slice`, `corruptions`, …; or `evidence`,
    `champion`, `looks`, which no policy turns off."""
    subject: str
    """What the rule was applied to: a metric, a class, the champion's version."""
    measured: float | None = None
    """As a share of 1; for a comparison, candidate less champion."""
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    """What the lower end is asked to reach; the upper end, where less is better."""
    method: str = ""
    """How the interval was made."""
    confidence: float | None = None
    """Level of the interval, two-sided."""
    p_value: float | None = None
    """Of a test, if the rule is one; adjusted where several are made at once."""
    passed: bool
    outcome: Decision
    """The verdict if this were the only finding."""
    sentence: str

    @model_validator(mode="after")
    def _passes_as_it_comes_out(self) -> Self:
        if self.passed != (self.outcome is Decision.PROMOTE):
            raise ValueError(f"a finding cannot have passed={self.passed} and lead to {self.outcome}")
        return self


class Verdict(_Record):
    """What follows from the findings. The same evidence and policy give the same bytes."""

    format: Literal[1] = 1
    decision: Decision
    use_case: str
    findings: tuple[Finding, ...]
    """Every rule, in the order of the policy."""
    reasons: tuple[str, ...]
    """The sentences that made the decision, worst first; of a promotion, what spoke for it most."""
    confidence: float
    """Level of the intervals at this look, two-sided: a lower end is too high in half of the rest."""
    look: int = Field(1, ge=1)
    """Which look at this test set it was."""
    examples: int
    """Images in the test split."""
    bootstrap: bool
    """Whether a first promotion was asked for."""
    evidence_digest: str
    policy_digest: str
    candidate_digest: str
    champion_digest: str | None
    champion_version: str | None
    split_digest: str

    @property
    def exit_code(self) -> int:
        """For a command: 0 PROMOTE, 10 HOLD, 11 REFUSE, 12 INSUFFICIENT_DATA."""
        return EXIT_CODES[self.decision]

    @property
    def canonical(self) -> bytes:
        """The verdict as canonical JSON: what is stored, and what `digest` is of."""
        return digests.canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of `canonical`."""
        return digests.of_bytes(self.canonical)

    def summary_lines(self) -> tuple[str, ...]:
        """For a console: the decision, then a line for each finding, those that stand in the way first."""
        worst_first = sorted(self.findings, key=lambda finding: -SEVERITY[finding.outcome])
        return (str(self.decision), *(f"{'✓' if f.passed else '✗'} {f.sentence}" for f in worst_first))


def passing(rule: str, subject: str, sentence: str) -> Finding:
    """A finding that stands in nobody's way and measures nothing."""
    return Finding(rule=rule, subject=subject, passed=True, outcome=Decision.PROMOTE, sentence=sentence)


def stopping(outcome: Decision, rule: str, subject: str, sentence: str) -> Finding:
    """A finding that stands in the way without a measurement."""
    return Finding(rule=rule, subject=subject, passed=False, outcome=outcome, sentence=sentence)
