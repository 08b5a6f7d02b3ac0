"""The one way to a verdict: looks are counted before anything is computed."""

from dataclasses import replace
from pathlib import Path

import pytest

from assay.errors import LedgerError
from assay.evaluation.evidence import Evidence
from assay.gate import Decision
from assay.gate import deciding as deciding_module
from assay.gate.deciding import decide
from assay.gate.ledger import Asked, Ledger

from evidences import ALONE, evidence, policy, table, with_column
from ledgers import images

FLOOR = policy(floors={"accuracy": 0.9}, looks=2)


def case(candidate: str = "a", n: int = 500) -> Evidence:
    meta = ALONE.model_copy(update={"candidate_digest": candidate * 64})
    return evidence(with_column(table(n), "sha256", images(n)), meta=meta)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open("demo", str(tmp_path / "ledger"))


def test_look_and_verdict_stand_in_the_ledger(ledger: Ledger) -> None:
    verdict = decide(case(), FLOOR, True, ledger)
    looked, judged = ledger.entries()
    assert (looked.kind, judged.kind) == ("look", "verdict")
    assert verdict.decision is Decision.PROMOTE
    assert verdict.look == 1


def test_another_candidate_and_another_policy_are_looks_and_the_same_question_is_none(ledger: Ledger) -> None:
    stricter = policy(floors={"accuracy": 0.95}, looks=9)
    looks = [
        decide(evidence, asked, True, ledger).look
        for evidence, asked in ((case("a"), FLOOR), (case("b"), FLOOR), (case("a"), FLOOR), (case("a"), stricter))
    ]
    assert looks == [1, 2, 1, 3]


def test_a_grown_test_set_is_still_the_same_one(ledger: Ledger) -> None:
    decide(case("a", 500), FLOOR, True, ledger)
    grown = case("b", 520)
    grown = replace(grown, meta=grown.meta.model_copy(update={"split_digest": "e" * 64}))
    assert decide(grown, FLOOR, True, ledger).look == 2


def test_what_is_spent_is_no_promotion(ledger: Ledger) -> None:
    decisions = [decide(case(name), FLOOR, True, ledger).decision for name in "abc"]
    assert decisions == [Decision.PROMOTE, Decision.PROMOTE, Decision.INSUFFICIENT_DATA]


def test_a_crash_after_the_look_has_looked(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(deciding_module, "judge", crash)
    with pytest.raises(RuntimeError):
        decide(case("a"), FLOOR, True, ledger)
    assert [isinstance(entry.body, Asked) for entry in ledger.entries()] == [True]


def test_evidence_without_digests_of_images_is_refused_or_not_judged(ledger: Ledger) -> None:
    nameless = evidence(table(100))  # its sha256 are no digests
    with pytest.raises(LedgerError, match="cannot be counted"):
        decide(nameless, FLOOR, True, ledger)
    broken = evidence(table(100).drop_columns(["sha256"]))
    assert decide(broken, FLOOR, True, ledger).decision is Decision.REFUSE


def test_a_ledger_that_cannot_be_written_gives_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError):
        decide(case(), FLOOR, True, Ledger.open("demo", str(tmp_path / "file")))
