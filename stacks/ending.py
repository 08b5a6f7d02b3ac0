"""How a run on a cluster ended, as who started it is told: in one line, like the end of a run in this process."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zenml.client import Client
from zenml.models import ExceptionInfo, PipelineRunResponse, StepRunResponse
from zenml.orchestrators.exceptions import PipelineSubmissionError

from assay.errors import AssayError
from stacks.errors import StackError

if TYPE_CHECKING:
    from uuid import UUID

BECAUSE = "failed_because_"
"""Metadata of a run, with a step's name: what the cluster said of its pod, which cannot say it itself."""


class SubmissionError(StackError, PipelineSubmissionError):
    """A cluster did not take a run. ZenML cleans up after its own kind of error only, so that this is one."""


def why(run_id: "UUID", unsaid: str = "") -> AssayError | None:
    """Why a run did not complete, by its first step that failed; None if it did complete.

    Args:
        run_id: of ZenML.
        unsaid: what it is that a step ended of which nobody has said anything.
    """
    run = Client().get_pipeline_run(run_id)
    if run.status == "completed":
        return None
    # ZenML lets a step seem to be tried again whose pod died before it could say that it had begun.
    broken = sorted((step for step in run.steps.values() if not step.status.is_successful), key=_began)
    told = (error for step in broken if (error := _of(step, run, unsaid)))
    return next(told, StackError(_silent(run, broken)))


def _began(step: StepRunResponse) -> str:
    return str(step.start_time or step.end_time or "")


def _of(step: StepRunResponse, run: PipelineRunResponse, unsaid: str) -> AssayError | None:
    if step.exception_info:
        return raised(step.exception_info)
    said = run.run_metadata.get(f"{BECAUSE}{step.name}") or unsaid
    return StackError(f"step {step.name}: {said}") if said else None


def _silent(run: PipelineRunResponse, broken: Iterable[StepRunResponse]) -> str:
    where = "".join(f"step {step.name} of " for step in broken)
    return f"{where}the run {run.name}: {run.status}, and nothing says why; its logs are in ZenML's page"


def raised(info: ExceptionInfo) -> AssayError:
    """What a step raised, by what ZenML keeps of it; with the exit code that it would have had in this process."""
    name = (info.source or "").rpartition(".")[2]
    ours = {kind.__name__: kind for kind in AssayError.__subclasses__()}
    message = " ".join((info.message or info.traceback.strip().rpartition("\n")[2]).split())
    error = StackError(message if name in ours else f"{name}: {message}".removeprefix(": "))
    error.exit_code = ours.get(name, StackError).exit_code
    return error
