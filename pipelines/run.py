"""Run a training pipeline from this process, and gather what a person wants to know of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from zenml.client import Client
from zenml.models import PipelineRunResponse
from zenml.pipelines.pipeline_definition import Pipeline

from assay import registry
from assay.config import load_use_case, use_case_document
from assay.errors import AssayError
from assay.home import subfolder
from assay.summary import TrainingRun
from steps.hooks import failures


def run_training(config: Path, overrides: Mapping[str, Any], bootstrap: bool | None, cache: bool) -> TrainingRun:
    """Run the training pipeline on the active stack and wait for its end.

    Args:
        config: the use case's YAML.
        overrides: dotted keys below `use_case` to values.
        bootstrap: whether the first model may pass without a champion; None leaves it to the config.
        cache: whether steps whose inputs and code are unchanged may be skipped.

    Raises:
        AssayError: what the user can mend, from the config or from a step.
    """
    use_case = load_use_case(config, overrides)
    document = use_case_document(config)
    document["parameters"]["use_case"] = use_case.model_dump(mode="json")
    if bootstrap is not None:
        document["parameters"]["bootstrap"] = bootstrap
    resolved = subfolder("configs") / f"{use_case.name}.yaml"
    resolved.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    from pipelines.training import training_pipeline

    return _summary(_run(training_pipeline.with_options(config_path=str(resolved), enable_cache=cache)))


def _run(pipeline: Pipeline) -> PipelineRunResponse:
    failures.clear()
    try:
        run = pipeline()
    except RuntimeError as error:
        # ZenML says which step failed; what the step raised says why.
        raise (failures[-1] if failures else AssayError(str(error))) from None
    if run is None or run.status != "completed":
        raise AssayError(f"the run did not complete; look at it in ZenML's page: assay ui ({run and run.name})")
    return run


def _summary(run: PipelineRunResponse) -> TrainingRun:
    run = Client().get_pipeline_run(run.id)
    steps = run.steps
    return TrainingRun(
        name=run.name,
        verdict=_output(run, "gate", "verdict"),
        metrics=_output(run, "report", "metrics"),
        version=registry.find(_output(run, "register", "version")),
        report=_report_page(run),
        ran=tuple(name for name, step in steps.items() if step.status == "completed"),
    )


def _output(run: PipelineRunResponse, step: str, name: str) -> Any:
    return run.steps[step].outputs[name][0].load()


def _report_page(run: PipelineRunResponse) -> Path:
    """The report as a file; the step has left it there, unless it ran somewhere else or its result was reused."""
    path = subfolder("reports", run.name) / "index.html"
    if not path.exists():
        path.write_text(_output(run, "report", "page"), encoding="utf-8")
    return path
