"""Judge the evidence."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import Policy
from assay.console import say
from assay.evaluation.evidence import Evidence
from assay.gate import Verdict
from assay.gate.deciding import decide
from assay.gate.ledger import Ledger, ledger_root
from steps.caching import code_digest


def code() -> str:
    """Digest of the library code behind this step, and of where the ledger is."""
    return code_digest(__file__) + ledger_root()


@step(cache_policy=CachePolicy(cache_func=code))
def gate(evidence: Evidence, policy: Policy, bootstrap: bool) -> Annotated[Verdict, "verdict"]:
    """Judge by the policy, and by how often this test set was looked at; to refuse is a result, not a failure."""
    verdict = decide(evidence, policy, bootstrap, Ledger.open(evidence.meta.use_case))
    say("gate", f"{verdict.decision}  {verdict.reasons[0]}")
    return verdict
