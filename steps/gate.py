"""Judge the evidence."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import Policy
from assay.console import say
from assay.evaluation.evidence import Evidence
from assay.gate import Verdict, judge
from steps.caching import code_digest


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code))
def gate(evidence: Evidence, policy: Policy, bootstrap: bool) -> Annotated[Verdict, "verdict"]:
    """A pure function of evidence and policy; a verdict that refuses is a result, not a failure of the run."""
    verdict = judge(evidence, policy, bootstrap=bootstrap)
    say("gate", f"{verdict.decision}  {verdict.reasons[0]}")
    return verdict
