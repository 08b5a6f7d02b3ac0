"""What a step may ask of its pod, and how a wrong wish is told: in one line that names the setting."""

from typing import Any

import pytest

pytest.importorskip("kfp", reason="needs the extra kubeflow")

from stacks.errors import StackError
from stacks.kubeflow import KubeflowConfig, KubeflowSettings
from stacks.kubernetes import KubernetesConfig, KubernetesSettings
from stacks.pods import in_bytes

BOTH = pytest.mark.parametrize("settings", [KubeflowSettings, KubernetesSettings])
WHOLE = {
    "cpu": 8,
    "memory": "32Gi",
    "gpu_count": 1,
    "shm": "8Gi",
    "volumes": [{"claim": "data", "path": "/data", "sub_path": "cracks"}],
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "node_selector": {"pool": "gpu"},
    "labels": {"team": "walls"},
    "secrets": [{"secret": "tokens", "env": {"HF_TOKEN": "hub"}}],
    "retries": 3,
    "time_limit": 3600,
}


@BOTH
def test_all_that_a_config_may_say_is_taken_and_survives_being_stored(settings: type[Any]) -> None:
    read = settings(**WHOLE)
    assert settings.model_validate(read.model_dump(mode="json", exclude_unset=True)) == read


@BOTH
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cpus": 2}, "settings.orchestrator.cpus: unknown setting; did you mean 'cpu'?"),
        ({"pod_settings": {"labels": {"a": "b"}}}, "settings.orchestrator.pod_settings"),
        ({"memory": "8GB"}, "settings.orchestrator.memory"),
        ({"cpu": 0}, "settings.orchestrator.cpu"),
        ({"gpu_count": -1}, "settings.orchestrator.gpu_count"),
        ({"shm": "8Gi", "memory": "8Gi"}, "settings.orchestrator.shm"),
        ({"volumes": [{"claim": "a", "path": "data"}]}, "settings.orchestrator.volumes.0.path"),
        ({"volumes": [{"claim": "a", "path": "/d"}, {"claim": "b", "path": "/d"}]}, "two volumes at one path"),
        ({"shm": "1Gi", "volumes": [{"claim": "a", "path": "/dev/shm"}]}, "two volumes at one path"),
        ({"volumes": [{"claim": "a", "path": "/d", "readonly": True}]}, "volumes.0.readonly: unknown setting"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "`Exists` takes no value"),
        ({"secrets": [{"secret": "a", "env": {"not a name": "b"}}]}, "settings.orchestrator.secrets.0.env"),
    ],
)
def test_a_wrong_wish_is_one_line_that_names_the_setting(settings: type[Any], wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(StackError) as error:
        settings(**wrong)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_kubeflow_has_no_place_for_a_priority_class_and_kubernetes_has() -> None:
    with pytest.raises(StackError, match="priority_class: Kubeflow Pipelines cannot set one"):
        KubeflowSettings(priority_class="high")
    assert KubernetesSettings(priority_class="high").priority_class == "high"


def test_half_of_a_login_is_an_error() -> None:
    with pytest.raises(StackError, match="go together"):
        KubeflowSettings(client_username="somebody")


def test_both_leave_trying_again_to_the_cluster() -> None:
    assert KubeflowConfig().handles_step_retries
    assert KubernetesConfig().handles_step_retries
    assert KubernetesConfig().pass_zenml_token_as_secret
    assert KubernetesConfig().concurrency_policy == "Forbid"


@pytest.mark.parametrize(("size", "value"), [("1", 1), ("512Mi", 2**29), ("1.5Gi", 3 * 2**29), ("2G", 2 * 10**9)])
def test_quantities_are_those_of_kubernetes(size: str, value: int) -> None:
    assert in_bytes(size) == value
