"""The same settings in the form that ZenML's Kubernetes orchestrator reads, down to the pod that it makes of them."""

from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="needs the extra kubeflow")

from kubernetes.client import ApiClient
from zenml.integrations.kubernetes.manifest_utils import build_pod_manifest

from stacks.kubernetes import START_LIMIT, KubernetesSettings, pod_settings
from stacks.pods import Pod


def manifest(**asked: Any) -> dict[str, Any]:
    """The pod, as it is sent."""
    made = build_pod_manifest(
        pod_name="train",
        image_name="i",
        command=["c"],
        args=[],
        privileged=False,
        pod_settings=pod_settings(Pod(**asked)),
    )
    sent: dict[str, Any] = ApiClient().sanitize_for_serialization(made)
    return sent


def test_all_that_is_asked_for_stands_in_the_pod() -> None:
    pod = manifest(
        cpu=0.5,
        memory="4Gi",
        gpu_count=2,
        accelerator="amd.com/gpu",
        shm="1Gi",
        volumes=[{"claim": "data", "path": "/data"}, {"claim": "data", "path": "/more", "sub_path": "more"}],
        tolerations=[{"key": "gpu", "value": "yes", "effect": "NoExecute", "seconds": 60}],
        node_selector={"pool": "gpu"},
        labels={"team": "walls"},
        secrets=[{"secret": "tokens", "env": {"A": "key", "B": "key"}}],
        image_pull_secrets=["registry"],
        priority_class="high",
        time_limit=60,
    )
    spec = pod["spec"]
    container = spec["containers"][0]
    asked = {"cpu": "0.5", "memory": "4Gi", "amd.com/gpu": "2"}
    assert container["resources"] == {"requests": asked, "limits": asked}
    assert container["volumeMounts"] == [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "claim-data", "mountPath": "/data"},
        {"name": "claim-data", "mountPath": "/more", "subPath": "more"},
    ]
    assert spec["volumes"] == [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "claim-data", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    assert spec["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60}
    ]
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert pod["metadata"]["labels"]["team"] == "walls"
    variables = {variable["name"]: variable.get("valueFrom") for variable in container["env"]}
    assert variables["A"] == variables["B"] == {"secretKeyRef": {"name": "tokens", "key": "key"}}
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["priorityClassName"] == "high"
    assert spec["activeDeadlineSeconds"] == 60


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    spec = manifest()["spec"]
    assert not {"tolerations", "nodeSelector", "priorityClassName", "activeDeadlineSeconds", "volumes"} & set(spec)
    assert not spec["containers"][0].get("resources")


def test_no_setting_is_forgotten() -> None:
    """Whoever adds a setting must say what becomes of it here."""
    translated = {"cpu", "memory", "gpu_count", "accelerator", "shm", "volumes", "tolerations", "node_selector"}
    translated |= {"labels", "secrets", "image_pull_secrets", "priority_class", "time_limit"}
    elsewhere = {"retries"}  # of the job, by the step's configuration: stacks.snapshots
    assert set(Pod.model_fields) == translated | elsewhere
    assert set(Pod.model_fields) < set(KubernetesSettings.model_fields)


def test_a_pod_says_how_long_it_may_wait_for_its_start() -> None:
    made = pod_settings(Pod(), KubernetesSettings(start_limit=30).start_limit)
    assert made.annotations == {START_LIMIT: "30"}


def test_an_image_that_the_node_lacks_and_may_not_pull_is_not_waited_for() -> None:
    reasons = KubernetesSettings().fail_on_container_waiting_reasons or []
    assert {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"} <= set(reasons)
