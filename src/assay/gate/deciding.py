"""The one way to a verdict: count the look, judge, write the verdict down."""

from assay import digests
from assay.config import Policy
from assay.errors import LedgerError
from assay.evaluation.evidence import Evidence
from assay.gate.judging import judge
from assay.gate.ledger import Ledger
from assay.gate.looks import Question, sketch
from assay.gate.verdict import Decision, Verdict


def decide(evidence: Evidence, policy: Policy, bootstrap: bool, ledger: Ledger) -> Verdict:
    """The verdict on the evidence, and its place in the ledger.

    The look is in the ledger before anything is computed from the test set: whoever is interrupted after that has
    looked. The same question costs one look, however often it is asked.

    Args:
        evidence: candidate and champion on the same test split.
        policy: what is asked of the candidate.
        bootstrap: allow a first promotion, while there is no champion to compare with.
        ledger: of the use case.

    Raises:
        LedgerError: the ledger cannot be read, written or believed: then there is no verdict.
    """
    question = _question(evidence, policy)
    if question is None:
        verdict = judge(evidence, policy, bootstrap)
        if verdict.decision is not Decision.REFUSE:
            raise LedgerError("the test images have no digests, so this look at them cannot be counted; evaluate again")
        ledger.record(verdict)
        return verdict
    look = ledger.look(question, policy.looks).number
    verdict = judge(evidence, policy, bootstrap, look)
    ledger.record(verdict)
    return verdict


def _question(evidence: Evidence, policy: Policy) -> Question | None:
    """What is asked of which test set; None of evidence so broken that it names no images."""
    meta, table = evidence.meta, evidence.candidate
    if table.column_names.count("sha256") != 1:
        return None
    try:
        images = sketch(table["sha256"].to_pylist())
    except LedgerError:
        return None
    return Question(
        candidate_digest=meta.candidate_digest,
        champion_digest=meta.champion_digest,
        policy_digest=digests.of_json(policy.model_dump(mode="json")),
        split_digest=meta.split_digest,
        sketch=images,
    )
