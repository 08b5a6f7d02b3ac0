"""What happens when a step fails: it is told, its MLflow run is closed, the error is kept for who started the run."""

from zenml import get_step_context
from zenml.models import PipelineRunResponse
from zenml.utils.dashboard_utils import get_run_url

from assay import registry
from assay.errors import RegistryError
from assay.notify import News, notify

failures: list[BaseException] = []
"""Of the runs in this process, oldest first: ZenML raises an error of its own, without the cause."""


def close_run(error: BaseException) -> None:
    """Keep the error, tell it, and mark the MLflow run, where the failed pipeline run has one, as failed."""
    failures.append(error)
    run = get_step_context().pipeline_run
    notify(failure(run, error))
    try:
        registry.close_failed(run.name)
    except RegistryError:
        return  # a registry that does not answer must not hide why the step failed


def failure(run: PipelineRunResponse, error: BaseException) -> News:
    """News of a failed run: whose it is, by its parameters, and what it was about, if it is a promotion."""
    given = run.config.parameters or {}
    use_case, wish = given.get("use_case", {}), given.get("wish", {})
    pipeline = run.pipeline.name if run.pipeline else "a"
    return News(
        "failure",
        use_case.get("name", f"{pipeline} pipeline"),
        version=wish.get("model", "").partition("@")[2],
        environment=wish.get("environment", ""),
        reason=f"{pipeline}: {error}",
        link=get_run_url(run) or "",
    )
