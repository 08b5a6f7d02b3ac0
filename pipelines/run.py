"""Run a pipeline from this process, and gather what a person wants to know of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy.exc import SQLAlchemyError
from zenml.client import Client
from zenml.exceptions import ZenMLBaseException
from zenml.models import PipelineRunResponse
from zenml.pipelines.pipeline_definition import Pipeline

from assay import registry
from assay.config import UseCase, load_use_case
from assay.console import waiting
from assay.errors import AssayError, ConfigError
from assay.home import subfolder
from assay.release.promotion import Wish
from assay.summary import Submitted, TrainingRun
from stacks.quiet import quiet
from stacks.server import cause, fault, greet
from steps.hooks import failures

quiet()


def run_training(
    config: Path, overrides: Mapping[str, Any], bootstrap: bool | None, cache: bool
) -> TrainingRun | Submitted:
    """Run the training pipeline on the active stack, and wait for its end if the stack does.

    Args:
        config: the use case's YAML.
        overrides: dotted keys below `use_case` to values.
        bootstrap: whether the first model may pass without a champion; None leaves it to the config.
        cache: whether steps whose inputs and code are unchanged may be skipped.

    Raises:
        AssayError: what the user can mend, from the config, from a service or from a step.
    """
    use_case = load_use_case(config, overrides)
    with waiting("start", "MLflow and ZenML"):
        registry.ask()
        greet()  # the steps, as they are imported, ask the server already
        from pipelines.document import run_document

        document = run_document(config, use_case)
    if bootstrap is not None:
        document["parameters"]["bootstrap"] = bootstrap
    resolved = subfolder("configs") / f"{use_case.name}.yaml"
    resolved.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    from pipelines.training import training_pipeline

    run = _run(training_pipeline.with_options(config_path=str(resolved), enable_cache=cache))
    return _summary(run) if run.status.is_finished else Submitted(run.name)


def run_promotion(use_case: UseCase, wish: Wish, actor: str) -> dict[str, Any]:
    """Run the promotion pipeline on the active stack and wait for its end.

    Args:
        use_case: whose test split the service is rehearsed with.
        wish: what is to be promoted.
        actor: who asks for it, for the ledger.

    Returns:
        `Outcome.as_json`, and the rehearsal.

    Raises:
        AssayError: nothing was promoted; the exit code tells whether what was served before still is.
    """
    greet()
    from pipelines.promotion import promotion_pipeline

    run = Client().get_pipeline_run(_run(promotion_pipeline, use_case=use_case, wish=wish, actor=actor).id)
    return {**_output(run, "release", "outcome"), "rehearsal": _output(run, "rehearse", "rehearsal"), "run": run.name}


def _run(pipeline: Pipeline, **parameters: Any) -> PipelineRunResponse:
    failures.clear()
    try:
        run = pipeline(**parameters)
    except AssayError:
        raise
    except RuntimeError as error:
        # ZenML says which step failed; what the step raised says why.
        raise (failures[-1] if failures else AssayError(str(error))) from None
    except ValueError as error:
        raise (failures[-1] if failures else ConfigError(f"ZenML refuses the configuration: {cause(error)}")) from None
    except (OSError, ZenMLBaseException, SQLAlchemyError) as error:
        raise (failures[-1] if failures else fault(error)) from None
    if run is None or (run.status.is_finished and run.status != "completed"):
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
