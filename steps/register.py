"""Make the candidate a version of the registered model, with its verdict."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy
from zenml.types import HTMLString

from assay.assessment import USE_CASE, VERDICT
from assay.config import UseCase
from assay.console import say
from assay.evaluation.metrics import Metrics
from assay.gate import Verdict
from assay.gate.telling import markdown
from assay.models.bundle import Bundle
from assay.notify import News, notify
from assay.registry import register_candidate, tracking_uri
from steps.caching import code_digest
from steps.outputs import page_of_this_run, tracked_run


def code() -> str:
    """Digest of the library code behind this step, and of where it registers."""
    return code_digest(__file__) + tracking_uri()


@step(cache_policy=CachePolicy(cache_func=code))
def register(
    use_case: UseCase,
    candidate: Bundle,
    verdict: Verdict,
    metrics: Metrics,
    page: HTMLString,
    data_report: HTMLString,
) -> Annotated[str, "version"]:
    """Store bundle, reports and verdict in MLflow; the alias `challenger` follows a verdict that allows it."""
    run = tracked_run(use_case.name)
    run.log_metrics(metrics.scalars())
    run.log_text(page, "report.html")
    run.log_text(data_report, "data.html")
    run.log_text(use_case.model_dump_json(indent=2), USE_CASE)
    run.log_text(verdict.model_dump_json(indent=2), VERDICT)
    run.log_text(markdown(verdict), "verdict.md")
    version = register_candidate(candidate, use_case.name, run, verdict)
    run.finish()
    notify(News("verdict", use_case.name, version.version, str(verdict.decision), link=page_of_this_run()))
    say("register", f"{version}  {', '.join(version.aliases)}")
    return str(version)
