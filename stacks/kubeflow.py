"""ZenML's Kubeflow orchestrator, with settings that reach the pods.

What is mended here of ZenML 0.98 is numbered; `tests/unit/stacks/test_upstream.py` holds each defect, and fails when
it is gone, so that its mending can be taken out:

1. `ResourceSettings(memory=…)` ends in a TypeError, for KFP is given a float.
2. `gpu_count` is dropped unless a node selector `accelerator` is set, and one variable holds that of all steps.
3. `pod_settings` is replaced at validation, so that volumes, tolerations and labels never reach a pod.
4. Waiting ends after 1200 s, which is less than a training.
5. A step is tried again within its container, so that nobody does it when the pod is evicted.
6. A run that failed is told like one that succeeded; KFP's client waits for ever for one that was cancelled.
7. A pipeline that Kubeflow did not take is a warning.
8. The compiled pipeline, with the run's API token, stays readable on the client's disk.
9. Tasks are made to depend on components instead of tasks, which KFP 2.17 refuses: no pipeline of two steps compiles.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator
from zenml.integrations.kubeflow.flavors.kubeflow_orchestrator_flavor import (
    KubeflowOrchestratorConfig,
    KubeflowOrchestratorFlavor,
    KubeflowOrchestratorSettings,
)

from stacks.errors import StackError
from stacks.pods import PLACE, Pod

if TYPE_CHECKING:
    from stacks.kubeflow_orchestrator import AssayKubeflowOrchestrator

FLAVOR = "assay_kubeflow"
WEEK_S = 7 * 24 * 3600


class KubeflowSettings(Pod, KubeflowOrchestratorSettings):
    """Settings of a step, or of a run."""

    timeout: int = Field(WEEK_S, gt=0)
    """Seconds that whoever starts a run waits for its end; defect 4."""
    pod_settings: None = None
    """Upstream's; defect 3."""

    @model_validator(mode="before")
    @classmethod
    def _validate_and_migrate_pod_settings(cls, data: Any) -> Any:
        """Named like what it replaces (defect 3), and holds what else that checked."""
        if isinstance(data, Mapping) and bool(data.get("client_username")) != bool(data.get("client_password")):
            raise StackError(f"{PLACE}: client_username and client_password go together")
        return data

    @model_validator(mode="after")
    def _known_to_kubeflow(self) -> Self:
        if self.priority_class:
            raise StackError(
                f"{PLACE}.priority_class: Kubeflow Pipelines cannot set one; leave it out, and let the cluster give "
                "pods of the pipelines' namespace a priority (stacks/cluster/README.md)"
            )
        return self


class KubeflowConfig(KubeflowSettings, KubeflowOrchestratorConfig):
    """Configuration of the orchestrator in a stack."""

    service_account: str | None = None
    """Of the steps' pods; None: the one that Kubeflow Pipelines was set up with."""
    any_tag: bool = False
    """Whether the image may be named by a tag: for a cluster that pulls nothing."""

    @property
    def handles_step_retries(self) -> bool:
        """The cluster starts a step again, in a new pod; defect 5."""
        return True


class KubeflowFlavor(KubeflowOrchestratorFlavor):
    """Registered by `assay stack apply`."""

    @property
    def name(self) -> str:
        return FLAVOR

    @property
    def config_class(self) -> type[KubeflowConfig]:
        return KubeflowConfig

    @property
    def implementation_class(self) -> type["AssayKubeflowOrchestrator"]:
        from stacks.kubeflow_orchestrator import AssayKubeflowOrchestrator

        return AssayKubeflowOrchestrator
