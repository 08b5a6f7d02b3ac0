"""ZenML's Kubernetes orchestrator with the settings of `stacks.pods`, for clusters without Kubeflow.

Upstream has a form of its own for them (`pod_settings`) and does not read `ResourceSettings`; here the YAML that serves
Kubeflow serves it too. Retries are its own: it starts a pod again that was evicted, without counting it, and one that
failed as often as said.
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field
from zenml.integrations.kubernetes.flavors.kubernetes_orchestrator_flavor import (
    KubernetesOrchestratorConfig,
    KubernetesOrchestratorFlavor,
    KubernetesOrchestratorSettings,
)
from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

from stacks.pods import SHM, Pod, Toleration, promises

if TYPE_CHECKING:
    from stacks.kubernetes_orchestrator import AssayKubernetesOrchestrator

FLAVOR = "assay_kubernetes"
START_LIMIT = "assay/start-limit"
"""Annotation of a pod: for how many seconds it may wait for its start."""
_WAITING_IN_VAIN = KubernetesOrchestratorSettings.model_fields["fail_on_container_waiting_reasons"].default


class KubernetesSettings(Pod, KubernetesOrchestratorSettings):
    """Settings of a step, or of a run."""

    pod_settings: None = None
    """Upstream's; made by the orchestrator from ours."""
    orchestrator_pod_settings: None = None
    """Upstream's; made from those of the run."""
    concurrency_policy: str | None = "Forbid"
    """A scheduled run waits for the one before it."""
    fail_on_container_waiting_reasons: list[str] | None = Field([*_WAITING_IN_VAIN, "ErrImageNeverPull"])
    start_limit: int = Field(3600, ge=0)
    """Seconds that a pod may wait for its place, its volumes and its image; 0: for ever."""


class KubernetesConfig(KubernetesSettings, KubernetesOrchestratorConfig):
    """Configuration of the orchestrator in a stack."""

    any_tag: bool = False
    """Whether the image may be named by a tag: for a cluster that pulls nothing."""
    pass_zenml_token_as_secret: bool = True
    """The run's API token stands in a secret, and in no manifest."""


class KubernetesFlavor(KubernetesOrchestratorFlavor):
    """Registered by `assay stack apply`."""

    @property
    def name(self) -> str:
        return FLAVOR

    @property
    def config_class(self) -> type[KubernetesConfig]:
        return KubernetesConfig

    @property
    def implementation_class(self) -> type["AssayKubernetesOrchestrator"]:
        from stacks.kubernetes_orchestrator import AssayKubernetesOrchestrator

        return AssayKubernetesOrchestrator


def pod_settings(pod: Pod, start_limit: int = 0) -> KubernetesPodSettings:
    """A step's pod, in ZenML's own form."""
    given: dict[str, Any] = {
        "resources": _resources(pod),
        "volumes": _volumes(pod),
        "volume_mounts": _mounts(pod),
        "tolerations": [_toleration(toleration) for toleration in pod.tolerations],
        "node_selectors": dict(pod.node_selector),
        "labels": dict(pod.labels),
        "annotations": {START_LIMIT: str(start_limit)},
        "env": _variables(pod),
        "image_pull_secrets": list(pod.image_pull_secrets),
        "additional_pod_spec_args": _of_the_pod(pod),
    }
    return KubernetesPodSettings(**given)


def _resources(pod: Pod) -> dict[str, dict[str, str]]:
    asked = {"cpu": f"{pod.cpu:g}" if pod.cpu else None, "memory": pod.memory}
    if pod.gpu_count:
        asked[pod.accelerator] = str(pod.gpu_count)
    given = {name: value for name, value in asked.items() if value}
    return {"requests": dict(given), "limits": dict(given)} if given else {}


def _volumes(pod: Pod) -> list[dict[str, Any]]:
    claims = sorted({volume.claim for volume in pod.volumes})
    shm = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shm}}] if pod.shm else []
    return shm + [{"name": _volume(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in claims]


def _mounts(pod: Pod) -> list[dict[str, Any]]:
    shm = [{"name": "shm", "mountPath": SHM}] if pod.shm else []
    return shm + [
        {"name": _volume(volume.claim), "mountPath": volume.path}
        | ({"subPath": volume.sub_path} if volume.sub_path else {})
        for volume in pod.volumes
    ]


def _volume(claim: str) -> str:
    return f"claim-{claim.replace('.', '-')}"[:63].rstrip("-")


def _toleration(toleration: Toleration) -> dict[str, Any]:
    given = toleration.model_dump(exclude_none=True)
    return {("tolerationSeconds" if name == "seconds" else name): value for name, value in given.items()}


def _variables(pod: Pod) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": value} for name, value in promises(pod).items()]
    return plain + [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": given.secret, "key": key}}}
        for given in pod.secrets
        for variable, key in given.env.items()
    ]


def _of_the_pod(pod: Pod) -> dict[str, Any]:
    asked = {"priority_class_name": pod.priority_class, "active_deadline_seconds": pod.time_limit or None}
    return {name: value for name, value in asked.items() if value is not None}
