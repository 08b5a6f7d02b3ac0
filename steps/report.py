"""Write down what the evaluation found, for somebody who was not there."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy
from zenml.types import HTMLString

from assay.config import UseCase
from assay.console import say
from assay.data.dataset import Dataset
from assay.evaluation.evidence import Evidence
from assay.evaluation.label_errors import suspects
from assay.evaluation.metrics import Metrics, measure
from assay.evaluation.report import Inputs, render
from assay.gate import Verdict
from assay.models.bundle import Bundle
from assay.training import Trained
from steps.caching import code_digest
from steps.outputs import publish


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code))
def report(
    use_case: UseCase, dataset: Dataset, trained: Trained, candidate: Bundle, evidence: Evidence, verdict: Verdict
) -> tuple[Annotated[HTMLString, "page"], Annotated[Metrics, "metrics"]]:
    """One self-contained page, and the candidate's metrics with their intervals."""
    labels, confidence = evidence.meta.labels, use_case.policy.confidence
    metrics = measure(evidence.candidate, labels, confidence)
    inputs = Inputs(
        evidence=evidence,
        verdict=verdict,
        metrics=metrics,
        dataset=dataset,
        bundle=candidate.meta,
        recipe=trained.settled,
        history=trained.history,
        best_epoch=trained.best_epoch,
        champion_metrics=measure(evidence.champion, labels, confidence) if evidence.champion is not None else None,
        suspects=suspects(evidence.candidate, labels),
    )
    page = render(inputs)
    say("report", str(publish("index.html", page)))
    return HTMLString(page), metrics
