"""What steps share about the run they are part of: its MLflow run, its folder of reports, earlier artifacts."""

from pathlib import Path
from typing import Any

from zenml import add_tags, get_step_context
from zenml.client import Client
from zenml.utils.dashboard_utils import get_run_url

from assay.home import subfolder
from assay.registry import Run, open_run


def tracked_run(use_case: str) -> Run:
    """The MLflow run that belongs to this pipeline run; it carries the pipeline run's name."""
    return open_run(use_case, get_step_context().pipeline_run.name)


def publish(name: str, html: str) -> Path:
    """Write a page into this run's folder of reports, whole or not at all."""
    path = subfolder("reports", get_step_context().pipeline_run.name) / name
    partial = path.with_name(f".{name}")
    partial.write_text(html, encoding="utf-8")
    return partial.replace(path)


def page_of_this_run() -> str:
    """Its address in ZenML's page; empty where there is no server."""
    return get_run_url(get_step_context().pipeline_run) or ""


def tag(name: str) -> None:
    """Tag the one output of this step, for `latest` to find."""
    add_tags(tags=[name], infer_artifact=True)


def latest(artifact: str, name: str) -> Any | None:
    """The newest artifact that carries a tag, loaded; None if there is none."""
    found = Client().list_artifact_versions(artifact=artifact, tags=[name], sort_by="desc:created", size=1)
    return found.items[0].load() if found.items else None
