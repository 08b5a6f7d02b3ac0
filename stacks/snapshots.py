"""What becomes of a pipeline before ZenML stores it: one image for all steps, no build, and the retries announced."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from zenml.client import Client
from zenml.config import DockerSettings
from zenml.config.retry_config import StepRetryConfig
from zenml.config.step_configurations import Step
from zenml.utils.settings_utils import get_stack_component_name_setting_key, get_stack_component_setting_key

from stacks.errors import StackError
from stacks.pods import Pod

if TYPE_CHECKING:
    from zenml.models import PipelineSnapshotBase
    from zenml.orchestrators import BaseOrchestrator
    from zenml.stack import StackComponent

IMAGE = "ASSAY_IMAGE"
READ_HERE = ("ASSAY_LEDGER", "MLFLOW_TRACKING_URI")
"""What whoever starts a run reads as well: who is champion is looked up before the first step."""
_BY_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def image(any_tag: bool) -> str:
    """The image of all steps, from the environment of whoever starts the pipeline.

    Raises:
        StackError: there is none, or it is not named by its digest although it must be.
    """
    name = os.environ.get(IMAGE, "")
    if not name:
        raise StackError(f"{IMAGE} is not set; give the image of the steps, as registry/name@sha256:…")
    if not any_tag and not _BY_DIGEST.fullmatch(name):
        raise StackError(f"{IMAGE}={name}: a tag may move while a run goes on; name the image by its digest, @sha256:…")
    return name


def given(component: "StackComponent", container: Any) -> dict[str, Any]:
    """The settings of a stack component for a step, a snapshot or a run: what the stack says, and the config over it.

    ZenML's own `get_settings` hands a settings class all of the component's configuration, and ours refuses what is no
    setting.
    """
    assert component.settings_class is not None
    values = component.config.model_dump(include=set(component.settings_class.model_fields), exclude_unset=True)
    of_all = (container.config if hasattr(container, "config") else container.pipeline_configuration).settings
    for key in (get_stack_component_name_setting_key(component), get_stack_component_setting_key(component)):
        if key in of_all:
            return values | dict(of_all[key])
    return values


def prepare(snapshot: "PipelineSnapshotBase", orchestrator: "BaseOrchestrator", any_tag: bool) -> DockerSettings:
    """Let every step of a snapshot run in the one image and with its retries, and return how it gets the image.

    ZenML shows a snapshot to the orchestrator for the last time, before it is stored, when it asks what must be built:
    this is to be called there.

    Raises:
        StackError: a step's settings cannot be applied, or this process reads other servers than the steps will.
    """
    _same_places(Client().active_stack.environment)
    docker = DockerSettings(
        parent_image=image(any_tag),
        skip_build=True,
        # The code is in the image. What is in a working tree is not what was reviewed, built and scanned.
        allow_including_files_in_images=False,
        allow_download_from_artifact_store=False,
        allow_download_from_code_repository=False,
    )
    steps = snapshot.step_configurations
    for name, step in steps.items():
        steps[name] = _prepared(name, step, docker, cast(Pod, orchestrator.get_settings(step)))
    return docker


def _same_places(environment: Mapping[str, str]) -> None:
    """A run that took its champion from another ledger than its verdict goes to would compare with the wrong one."""
    for name in READ_HERE:
        here, there = os.environ.get(name, ""), environment.get(name, "")
        if there and here != there:
            raise StackError(f"{name} is {there} for the steps and {here or 'not set'} here; export {name}={there}")


def _prepared(name: str, step: Step, docker: DockerSettings, pod: Pod) -> Step:
    if not step.config.resource_settings.empty:
        raise StackError(f"step {name}: settings.resources is not read; give cpu, memory and gpu_count in "
                         "settings.orchestrator")  # fmt: skip
    changes = {"retry": _retry(name, step, pod)}
    changed = {
        part: getattr(step, part).model_copy(
            update={**changes, "settings": {**getattr(step, part).settings, "docker": docker}}
        )
        for part in ("config", "step_config_overrides")
    }
    return step.model_copy(update=changed)


def _retry(name: str, step: Step, pod: Pod) -> StepRetryConfig | None:
    """The server refuses a step that is started more often than its own `retry` says.

    It cannot be given in the config itself: a local run would take it for its own, and start a step again that was
    stopped with Ctrl-C.
    """
    if step.config.retry is not None and step.config.retry.max_retries != pod.retries:
        raise StackError(f"step {name}: `retry` is ZenML's own and not read; give settings.orchestrator.retries")
    return StepRetryConfig(max_retries=pod.retries) if pod.retries else None
