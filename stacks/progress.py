"""What a person sees of a run whose steps are pods: a line when a step begins, and one when it ends."""

from typing import TYPE_CHECKING

from zenml.client import Client

from assay.console import say, warn

if TYPE_CHECKING:
    from uuid import UUID

    from zenml.models import StepRunResponse


class Progress:
    """Of one run; `look` is called again and again while it goes on."""

    def __init__(self, run_id: "UUID") -> None:
        self.run_id = run_id
        self.said: dict[str, str] = {}

    def look(self) -> None:
        """Say which steps have begun or ended since the last look."""
        for name, step in Client().get_pipeline_run(self.run_id).steps.items():
            if self.said.get(name) != (status := str(step.status)):
                self.said[name] = status
                (warn if step.status == "failed" else say)(name, f"{status}{_seconds(step)}")


def _seconds(step: "StepRunResponse") -> str:
    if not step.end_time or not step.start_time:
        return ""
    return f"  {(step.end_time - step.start_time).total_seconds():.0f} s"
