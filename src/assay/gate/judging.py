"""The judge."""

from assay import digests
from assay.config import Policy
from assay.evaluation.evidence import Evidence
from assay.gate.rules import comparison, floors
from assay.gate.soundness import Answers, examine, mismatches
from assay.gate.verdict import SEVERITY, Decision, Finding, Verdict, passing, stopping


def judge(evidence: Evidence, policy: Policy, bootstrap: bool = False) -> Verdict:
    """What follows from the evidence under the policy.

    A pure function: no file, no clock, no chance; the same evidence and policy give the same bytes. It raises for no
    table, however wrong: what cannot be judged is refused.

    Args:
        evidence: candidate and champion on the same test split.
        policy: what is asked of the candidate.
        bootstrap: allow a first promotion, while there is no champion to compare with.
    """
    findings = tuple(_findings(evidence, policy, bootstrap))
    decision = max((finding.outcome for finding in findings), key=SEVERITY.__getitem__)
    meta = evidence.meta
    return Verdict(
        decision=decision,
        use_case=meta.use_case,
        findings=findings,
        reasons=_reasons(findings, decision),
        confidence=policy.confidence,
        examples=evidence.candidate.num_rows,
        bootstrap=bootstrap,
        evidence_digest=evidence.digest,
        policy_digest=digests.of_json(policy.model_dump(mode="json")),
        candidate_digest=meta.candidate_digest,
        champion_digest=meta.champion_digest,
        champion_version=meta.champion_version,
        split_digest=meta.split_digest,
    )


def _findings(evidence: Evidence, policy: Policy, bootstrap: bool) -> list[Finding]:
    candidate, problems = examine(evidence.candidate, evidence.meta.labels)
    if candidate is None:
        return [_unsound("candidate", problem) for problem in problems]
    sound = passing("evidence", "candidate", f"{len(candidate):,} predictions of the candidate are whole")
    absolute = floors(candidate, policy.floors, policy.confidence)
    return [sound, *absolute, *_against_champion(evidence, candidate, policy, bootstrap, bool(absolute))]


def _against_champion(
    evidence: Evidence, candidate: Answers, policy: Policy, bootstrap: bool, has_floors: bool
) -> list[Finding]:
    meta, subject = evidence.meta, _name(evidence)
    if evidence.champion is None and (meta.champion_digest, meta.champion_version, meta.champion_fault) == (None,) * 3:
        return [_no_champion(bootstrap, has_floors)]
    champion, problems = _champion(evidence)
    if champion is None or problems:
        return [_unsound(subject, problem) for problem in problems]
    if meta.champion_digest == meta.candidate_digest:
        text = "the candidate is the champion, byte for byte: there is nothing to promote"
        return [stopping(Decision.HOLD, "champion", subject, text)]
    whole = passing("evidence", subject, f"{len(champion):,} predictions of {subject}, of the same images, are whole")
    return [whole, comparison(candidate, champion, subject, policy.champion, policy.confidence)]


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


def _no_champion(bootstrap: bool, has_floors: bool) -> Finding:
    if not bootstrap:
        text = (
            "there is no champion to compare with; ask for the first promotion with --bootstrap, "
            "or with `bootstrap: true` among the parameters of the config"
        )
        return stopping(Decision.REFUSE, "champion", "none", text)
    if not has_floors:
        text = "there is no champion and the policy has no floor, so nothing would be asked; give floors.accuracy"
        return stopping(Decision.REFUSE, "champion", "none", text)
    return passing("champion", "none", "there is no champion yet, and the first promotion was asked for")


def _unsound(subject: str, problem: str) -> Finding:
    return stopping(Decision.REFUSE, "evidence", subject, f"{subject}: {problem}")


def _name(evidence: Evidence) -> str:
    version = evidence.meta.champion_version
    return f"champion {version}" if version is not None else "the champion"


def _reasons(findings: tuple[Finding, ...], decision: Decision) -> tuple[str, ...]:
    if decision is Decision.PROMOTE:
        return tuple(finding.sentence for finding in findings if finding.rule != "evidence")
    worst_first = sorted(findings, key=lambda finding: -SEVERITY[finding.outcome])
    return tuple(finding.sentence for finding in worst_first if not finding.passed)
