"""What happens when a step fails: the run in MLflow is closed, and the error is kept for whoever started the run."""

from zenml import get_step_context

from assay import registry
from assay.errors import RegistryError

failures: list[BaseException] = []
"""Of the runs in this process, oldest first: ZenML raises an error of its own, without the cause."""


def close_run(error: BaseException) -> None:
    """Keep the error, and mark the MLflow run, where the failed pipeline run has one, as failed."""
    failures.append(error)
    try:
        registry.close_failed(get_step_context().pipeline_run.name)
    except RegistryError:
        return  # a registry that does not answer must not hide why the step failed
