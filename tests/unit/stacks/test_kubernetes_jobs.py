"""What is made of a job that does not come to its end, from what Kubernetes says of it and of its pods."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="needs the extra kubeflow")

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from zenml.integrations.kubernetes import kube_utils
from zenml.integrations.kubernetes.kube_utils import JobStatus

from stacks.kubernetes import START_LIMIT
from stacks.kubernetes_jobs import look, plain, upstream_look

NO_NODE = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
NO_CLAIM = 'persistentvolumeclaim "nowhere" not found'
WAITING = ["ErrImagePull", "ErrImageNeverPull"]


class Cluster:
    """The few calls that are made, of a cluster with one job."""

    def __init__(self, age_s: float = 0, limit: int = 60, events: tuple[str, ...] | None = ()) -> None:
        self.made = datetime.now(UTC) - timedelta(seconds=age_s)
        template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(annotations={START_LIMIT: str(limit)}))
        self.job = client.V1Job(
            metadata=client.V1ObjectMeta(name="j", namespace="n", uid="u", creation_timestamp=self.made),
            spec=client.V1JobSpec(template=template),
            status=client.V1JobStatus(),
        )
        self.pods: list[client.V1Pod] = []
        self.events = events
        self.removed = False

    def pod(self, phase: str = "Pending", message: str = "", waiting: str = "", said: str = "") -> "Cluster":
        """With a pod that waits for its place, or whose container waits."""
        condition = client.V1PodCondition(type="PodScheduled", status="False", reason="Unschedulable", message=message)
        state = client.V1ContainerState(waiting=client.V1ContainerStateWaiting(reason=waiting, message=said))
        container = client.V1ContainerStatus(
            name="main", image="i", image_id="", ready=False, restart_count=0, state=state
        )
        status = client.V1PodStatus(
            phase=phase,
            conditions=[condition] if message else [],
            container_statuses=[container] if waiting else [],
        )
        made = client.V1ObjectMeta(name="p", creation_timestamp=self.made)
        self.pods.append(client.V1Pod(metadata=made, status=status))
        return self

    def failed(self, message: str) -> "Cluster":
        """The job has failed."""
        self.job.status.conditions = [client.V1JobCondition(type="Failed", status="True", message=message)]
        return self

    def read_namespaced_job(self, name: str, namespace: str) -> client.V1Job:
        return self.job

    def list_namespaced_pod(self, namespace: str, label_selector: str, field_selector: str = "") -> Any:
        return SimpleNamespace(items=list(self.pods))

    def list_namespaced_event(self, namespace: str, field_selector: str) -> Any:
        if self.events is None:
            raise ApiException(status=403)
        return SimpleNamespace(items=[SimpleNamespace(type="Warning", message=message) for message in self.events])

    def delete_namespaced_job(self, **_: Any) -> None:
        self.removed = True

    def look(self) -> tuple[JobStatus, str | None]:
        return look(**self.given)

    @property
    def given(self) -> Mapping[str, Any]:
        return {
            "batch_api": self, "core_api": self, "namespace": "n", "job_name": "j",
            "fail_on_container_waiting_reasons": WAITING,
        }  # fmt: skip


def test_a_job_that_goes_on_is_left_alone() -> None:
    cluster = Cluster(age_s=9999).pod("Running")
    assert cluster.look() == (JobStatus.RUNNING, None)
    assert not cluster.removed


def test_upstream_waits_for_ever_for_a_pod_that_will_not_start() -> None:
    """When this fails, upstream has an end to it, and `stacks.kubernetes_jobs` is to be looked at."""
    cluster = Cluster(age_s=9999).pod(message=NO_CLAIM)
    assert upstream_look(**cluster.given)[0] is JobStatus.RUNNING
    assert upstream_look is kube_utils.check_job_status


def test_a_claim_that_is_not_there_is_not_waited_for() -> None:
    cluster = Cluster().pod(message=f"0/1 nodes are available: 1 {NO_CLAIM}.")
    status, said = cluster.look()
    assert (status, cluster.removed) == (JobStatus.FAILED, True)
    assert said == f"its pod cannot start: {NO_CLAIM}: make it, or mend settings.orchestrator"


@pytest.mark.parametrize(("age", "limit", "over"), [(59, 60, False), (61, 60, True), (99_999, 0, False)])
def test_a_node_is_waited_for_as_long_as_is_said(age: float, limit: int, over: bool) -> None:
    cluster = Cluster(age_s=age, limit=limit).pod(message=NO_NODE)
    status, said = cluster.look()
    assert (status is JobStatus.FAILED) == cluster.removed == over
    if over:
        assert said == f"its pod did not start within 60 s (settings.orchestrator.start_limit): {NO_NODE}"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (("exceeded quota: assay-pipelines",), "exceeded quota: assay-pipelines"),
        ((), "Kubernetes has not made it"),
        (None, "Kubernetes has not made it"),
    ],
)
def test_a_pod_that_is_not_even_made_is_waited_for_no_longer(events: tuple[str, ...] | None, told: str) -> None:
    status, said = Cluster(age_s=61, events=events).look()
    assert status is JobStatus.FAILED
    assert said.endswith(told)


def test_an_account_that_is_not_there_is_not_waited_for() -> None:
    told = 'error looking up service account n/nobody: serviceaccount "nobody" not found'
    assert 'serviceaccount "nobody" not found: make it' in Cluster(events=(told,)).look()[1]


@pytest.mark.parametrize("reason", WAITING)
def test_an_image_that_is_not_there_is_told_with_a_remedy(reason: str) -> None:
    cluster = Cluster().pod(waiting=reason, said='no "localhost/nowhere:1"')
    status, said = cluster.look()
    assert (status, cluster.removed) == (JobStatus.FAILED, True)
    assert "mend ASSAY_IMAGE" in said
    assert said.endswith('(no "localhost/nowhere:1")')


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("backoff (container failure reason: OOMKilled, exit_code=137)", "raise settings.orchestrator.memory"),
        ("pod failure reason: DeadlineExceeded, message=…", "raise settings.orchestrator.time_limit"),
        ("container failure reason: Error, exit_code=1", "container failure reason: Error, exit_code=1"),
    ],
)
def test_a_failure_is_told_in_one_line(said: str, told: str) -> None:
    assert told in Cluster().failed(said).look()[1]
    assert "\n" not in plain(f"{said}\nand more")
