import json

import pytest
from pydantic import ValidationError

from assay import digests
from assay.gate import Decision, Finding, Verdict
from assay.gate.verdict import passing, stopping

FIRST = passing("floor.accuracy", "accuracy", "accuracy 99% is at least 95%")
SECOND = stopping(Decision.HOLD, "superior", "champion 3", "it should be better")


def verdict(decision: Decision = Decision.HOLD) -> Verdict:
    return Verdict(
        decision=decision,
        use_case="demo",
        findings=(FIRST, SECOND),
        reasons=(SECOND.sentence,),
        confidence=0.95,
        examples=10,
        bootstrap=False,
        evidence_digest="e",
        policy_digest="p",
        candidate_digest="a",
        champion_digest="b",
        champion_version="3",
        split_digest="s",
    )


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        (Decision.PROMOTE, 0),
        (Decision.HOLD, 10),
        (Decision.REFUSE, 11),
        (Decision.INSUFFICIENT_DATA, 12),
    ],
)
def test_each_decision_has_its_exit_code(decision: Decision, code: int) -> None:
    assert verdict(decision).exit_code == code


def test_digest_is_that_of_the_canonical_json() -> None:
    assert json.loads(verdict().canonical) == json.loads(verdict().model_dump_json())
    assert verdict().digest == digests.of_bytes(verdict().canonical)
    assert verdict().digest != verdict(Decision.REFUSE).digest


def test_reads_what_it_wrote() -> None:
    assert Verdict.model_validate_json(verdict().canonical) == verdict()


def test_the_summary_begins_with_what_stands_in_the_way() -> None:
    assert verdict().summary_lines() == ("HOLD", "✗ it should be better", "✓ accuracy 99% is at least 95%")


@pytest.mark.parametrize("outcome", list(Decision))
def test_a_finding_cannot_contradict_itself(outcome: Decision) -> None:
    with pytest.raises(ValidationError, match="cannot have passed"):
        Finding(rule="r", subject="s", passed=outcome is not Decision.PROMOTE, outcome=outcome, sentence="")


def test_a_finding_holds_no_nan() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Finding(rule="r", subject="s", measured=float("nan"), passed=True, outcome=Decision.PROMOTE, sentence="")
