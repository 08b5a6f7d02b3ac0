"""The judge."""

from assay import digests
from assay.config import Policy
from assay.evaluation.evidence import Evidence
from assay.gate import rules
from assay.gate.rules import Case
from assay.gate.soundness import Answers, attributes_problems, challenges_problems, examine, mismatches
from assay.gate.statistics.multiplicity import confidence_at
from assay.gate.verdict import SEVERITY, Decision, Finding, Verdict, passing, stopping

HEADLINES = ("floor.", "operating_point", "superior", "non_inferior", "champion")
"""Rules that are named as reasons of a promotion; the others are counted."""


def judge(evidence: Evidence, policy: Policy, bootstrap: bool = False, look: int = 1) -> Verdict:
    """What follows from the evidence under the policy.

    A pure function: no file, no clock, no chance; the same evidence and policy give the same bytes. It raises for no
    table, however wrong: what cannot be judged is refused.

    Args:
        evidence: candidate and champion on the same test split.
        policy: what is asked of the candidate.
        bootstrap: allow a first promotion, while there is no champion to compare with.
        look: the number of this look at the test set, from 1; the ledger counts them.
    """
    confidence = confidence_at(policy.confidence, look)
    findings = tuple(_findings(evidence, policy, bootstrap, look, confidence))
    decision = max((finding.outcome for finding in findings), key=SEVERITY.__getitem__)
    meta = evidence.meta
    return Verdict(
        decision=decision,
        use_case=meta.use_case,
        findings=findings,
        reasons=_reasons(findings, decision),
        confidence=round(confidence, 9),
        look=look,
        examples=evidence.candidate.num_rows,
        bootstrap=bootstrap,
        evidence_digest=evidence.digest,
        policy_digest=digests.of_json(policy.model_dump(mode="json")),
        candidate_digest=meta.candidate_digest,
        champion_digest=meta.champion_digest,
        champion_version=meta.champion_version,
        split_digest=meta.split_digest,
    )


def _findings(evidence: Evidence, policy: Policy, bootstrap: bool, look: int, confidence: float) -> list[Finding]:
    candidate, problems = examine(evidence.candidate, evidence.meta.labels)
    if candidate is None:
        return [_unsound("candidate", problem) for problem in problems]
    if problems := attributes_problems(evidence) + challenges_problems(evidence):
        return [_unsound("evidence", problem) for problem in problems]
    champion, standing = _champion_or_finding(evidence, bootstrap)
    case = Case(
        candidate=candidate,
        champion=champion,
        rival=_name(evidence),
        attributes=evidence.attributes,
        challenges=evidence.challenges,
        uris=tuple(evidence.candidate["uri"].to_pylist()),
        meta=evidence.meta,
        confidence=confidence,
        base_confidence=policy.confidence,
    )
    sound = passing("evidence", "candidate", f"{len(candidate):,} predictions of the candidate are whole")
    asked = _asked(case, policy)
    if champion is None and bootstrap and not asked and all(finding.passed for finding in standing):
        standing = [_nothing_asked()]
    return [sound, *_spent(policy, look), *asked, *standing, *_compared(case, policy)]


def _asked(case: Case, policy: Policy) -> list[Finding]:
    """What the policy asks of the candidate by itself."""
    return [
        *rules.floors(case, policy.floors),
        *rules.operating_point(case, policy.operating_point),
        *rules.calibration(case, policy.calibration),
        *rules.slices(case, policy.slices),
        *rules.corruptions(case, policy.corruptions),
        *rules.behaviour(case, policy.behaviour),
        *rules.abstention(case, policy.abstention),
        *rules.budgets(case, policy.budgets),
    ]


def _compared(case: Case, policy: Policy) -> list[Finding]:
    return [rules.comparison(case, policy.champion)] if case.champion is not None else []


def _spent(policy: Policy, look: int) -> list[Finding]:
    if look <= policy.looks:
        return []
    text = (
        f"the test set is spent: this is look {look:,}, and the policy allows {policy.looks:,}; "
        "put newly labelled images into the test split, or another data set"
    )
    return [stopping(Decision.INSUFFICIENT_DATA, "looks", "test set", text)]


def _champion_or_finding(evidence: Evidence, bootstrap: bool) -> tuple[Answers | None, list[Finding]]:
    """The champion's answers if they can be compared, and what is to be said of it either way."""
    meta, subject = evidence.meta, _name(evidence)
    if evidence.champion is None and (meta.champion_digest, meta.champion_version, meta.champion_fault) == (None,) * 3:
        return None, [_no_champion(bootstrap)]
    champion, problems = _champion(evidence)
    if champion is None or problems:
        return None, [_unsound(subject, problem) for problem in problems]
    if meta.champion_digest == meta.candidate_digest:
        text = "the candidate is the champion, byte for byte: there is nothing to promote"
        return None, [stopping(Decision.HOLD, "champion", subject, text)]
    text = f"{len(champion):,} predictions of {subject}, of the same images, are whole"
    return champion, [passing("evidence", subject, text)]


def _champion(evidence: Evidence) -> tuple[Answers | None, list[str]]:
    """Its answers, or all that keeps them from being compared."""
    meta = evidence.meta
    if meta.champion_fault is not None:
        return None, [f"could not be run: {meta.champion_fault}"]
    if evidence.champion is None:
        return None, ["its predictions are missing"]
    if meta.champion_digest is None:
        return None, ["the evidence does not say which bundle it is"]
    champion, problems = examine(evidence.champion, meta.labels)
    return champion, problems or mismatches(evidence.candidate, evidence.champion)


def _no_champion(bootstrap: bool) -> Finding:
    if not bootstrap:
        text = (
            "there is no champion to compare with; ask for the first promotion with --bootstrap, "
            "or with `bootstrap: true` among the parameters of the config"
        )
        return stopping(Decision.REFUSE, "champion", "none", text)
    return passing("champion", "none", "there is no champion yet, and the first promotion was asked for")


def _nothing_asked() -> Finding:
    text = "there is no champion and the policy asks for nothing else; give floors.accuracy"
    return stopping(Decision.REFUSE, "champion", "none", text)


def _unsound(subject: str, problem: str) -> Finding:
    return stopping(Decision.REFUSE, "evidence", subject, f"{subject}: {problem}")


def _name(evidence: Evidence) -> str:
    version = evidence.meta.champion_version
    return f"champion {version}" if version is not None else "the champion"


def _reasons(findings: tuple[Finding, ...], decision: Decision) -> tuple[str, ...]:
    if decision is Decision.PROMOTE:
        first = [finding.sentence for finding in findings if finding.rule.startswith(HEADLINES)]
        others = sum(finding.rule != "evidence" for finding in findings) - len(first)
        more = (f"{others:,} other {'rule holds' if others == 1 else 'rules hold'}",) if others else ()
        return (*first, *more)
    worst_first = sorted(findings, key=lambda finding: -SEVERITY[finding.outcome])
    return tuple(finding.sentence for finding in worst_first if not finding.passed)
