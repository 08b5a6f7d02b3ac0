"""Small ledgers for tests: digests by name, questions, verdicts, and whole histories."""

import hashlib
from collections.abc import Sequence

from assay.gate.ledger import Entry, Ledger
from assay.gate.looks import Question, sketch
from assay.gate.verdict import Decision, Verdict

USE_CASE = "demo"


def digest(name: str) -> str:
    """A SHA-256 of its own for each name."""
    return hashlib.sha256(name.encode()).hexdigest()


def images(count: int, first: int = 0) -> list[str]:
    """SHA-256 of the images `first`, `first` + 1, …"""
    return [digest(f"image {number}") for number in range(first, first + count)]


def question(
    candidate: str, champion: str | None = None, policy: str = "policy", split: str = "split",
    test: Sequence[str] | None = None,
) -> Question:  # fmt: skip
    """Digests are made of the names; `champion` is a bundle's digest. The test set is `images(20)` if none is given."""
    return Question(
        candidate_digest=digest(candidate),
        champion_digest=champion,
        policy_digest=digest(policy),
        split_digest=digest(split),
        sketch=sketch(test or images(20)),
    )


def verdict(
    asked: Question, look: int = 1, decision: Decision = Decision.PROMOTE, champion_version: str | None = None,
    bootstrap: bool | None = None, use_case: str = USE_CASE,
) -> Verdict:  # fmt: skip
    """What a judge might have said to a question; a bootstrap where there is no champion."""
    return Verdict(
        decision=decision,
        use_case=use_case,
        findings=(),
        reasons=(),
        confidence=0.95,
        look=look,
        examples=asked.sketch.images,
        bootstrap=asked.champion_digest is None if bootstrap is None else bootstrap,
        evidence_digest=digest("evidence"),
        policy_digest=asked.policy_digest,
        candidate_digest=asked.candidate_digest,
        champion_digest=asked.champion_digest,
        champion_version=champion_version,
        split_digest=asked.split_digest,
    )


def judge(ledger: Ledger, candidate: str, decision: Decision = Decision.PROMOTE) -> Entry:
    """Look and record: the candidate against the champion."""
    champion = ledger.champion()
    asked = question(candidate, champion.bundle_digest if champion else None)
    look = ledger.look(asked, 20).number
    version = champion.version if champion else None
    return ledger.record(verdict(asked, look, decision, version, use_case=ledger.use_case))


def crown(ledger: Ledger, version: str) -> Entry:
    """Judge a bundle named after its version against the champion, and promote it."""
    judge(ledger, version)
    return ledger.promote(version, digest(version))
