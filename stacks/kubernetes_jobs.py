"""What has become of a step's job: upstream's view of it, and an end to what upstream would wait for for ever.

ZenML 0.98 looks at why a container does not start. A pod that finds no node or no volume, or that Kubernetes refuses to
make, it waits for without an end; `tests/unit/stacks/test_kubernetes_jobs.py` fails when it no longer does.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import BatchV1Api, CoreV1Api, V1Job, V1Pod
from kubernetes.client.exceptions import ApiException
from zenml.integrations.kubernetes import kube_utils
from zenml.integrations.kubernetes.kube_utils import JobStatus

from stacks.errors import first_line
from stacks.kubernetes import START_LIMIT

Look = Callable[..., tuple[JobStatus, str | None]]
upstream_look: Look = kube_utils.check_job_status
LACKING = re.compile(r'(persistentvolumeclaim|serviceaccount) "\S+" not found|no PriorityClass with name \S+')
"""What a pod can wait for as long as it likes, for nobody is about to make it."""


def look(
    *, batch_api: BatchV1Api, core_api: CoreV1Api, namespace: str, job_name: str, **given: Any
) -> tuple[JobStatus, str | None]:
    """In place of `kube_utils.check_job_status`: status and what is to be said of it, in a line with a remedy.

    A job whose pod will not start is removed, like one whose image is not there.
    """
    status, said = upstream_look(
        batch_api=batch_api, core_api=core_api, namespace=namespace, job_name=job_name, **given
    )
    if status is JobStatus.SUCCEEDED:
        return status, said
    if status is JobStatus.RUNNING and (stuck := _stuck(batch_api, core_api, namespace, job_name)):
        kube_utils.delete_job(batch_api, namespace, job_name)
        return JobStatus.FAILED, stuck
    return status, plain(said or "") if status is JobStatus.FAILED else said


def _stuck(batch_api: BatchV1Api, core_api: CoreV1Api, namespace: str, job_name: str) -> str:
    """Why a job's pod will not start, if that is certain or has lasted for too long."""
    job = batch_api.read_namespaced_job(job_name, namespace)
    pods = core_api.list_namespaced_pod(namespace, label_selector=f"job-name={job_name}").items
    newest = max(pods, key=lambda pod: pod.metadata.creation_timestamp, default=None)
    if newest and newest.status.phase != "Pending":
        return ""
    reason = _of_the_pod(newest) if newest else _of_the_job(core_api, job)
    if found := LACKING.search(reason):
        return f"its pod cannot start: {found[0]}: make it, or mend settings.orchestrator"
    limit = int((job.spec.template.metadata.annotations or {}).get(START_LIMIT, 0))
    waited = (datetime.now(UTC) - (newest or job).metadata.creation_timestamp).total_seconds()
    if not limit or waited < limit:
        return ""
    return f"its pod did not start within {limit} s (settings.orchestrator.start_limit): {reason}"


def _of_the_pod(pod: V1Pod) -> str:
    """What a pod that waits says of it."""
    conditions = [one.message for one in pod.status.conditions or () if one.status == "False" and one.message]
    waiting = [one.state.waiting for one in pod.status.container_statuses or () if one.state and one.state.waiting]
    return _line("; ".join([*conditions, *(f"{one.reason}: {one.message or ''}" for one in waiting)]))


def _of_the_job(core_api: CoreV1Api, job: V1Job) -> str:
    """Why there is no pod: a quota, an account or a priority class, which only an event tells."""
    try:
        asked = f"involvedObject.uid={job.metadata.uid}"
        events = core_api.list_namespaced_event(job.metadata.namespace, field_selector=asked).items
    except ApiException:  # not allowed
        events = []
    messages = [event.message for event in events if event.type == "Warning" and event.message]
    return _line(messages[-1] if messages else "Kubernetes has not made it")


PLAIN = {
    "OOMKilled": "it was killed for memory: raise settings.orchestrator.memory",
    "DeadlineExceeded": "it did not end in time: raise settings.orchestrator.time_limit",
    "InvalidImageName": "its image has no valid name: mend ASSAY_IMAGE",
    "ErrImageNeverPull": "its image is not on the node, and is not to be pulled: load it, or mend ASSAY_IMAGE",
    "ErrImagePull": "its image cannot be pulled: mend ASSAY_IMAGE, or settings.orchestrator.image_pull_secrets",
    "ImagePullBackOff": "its image cannot be pulled: mend ASSAY_IMAGE, or settings.orchestrator.image_pull_secrets",
    "CreateContainerConfigError": "a secret or a key of it is not there: mend settings.orchestrator.secrets",
    "Evicted": "it was evicted from its node: raise settings.orchestrator.memory or retries",
}
"""What Kubernetes calls it, and what can be done."""


def plain(said: str) -> str:
    """What Kubernetes says of a failed job, with what can be done about it first."""
    known = next((remedy for reason, remedy in PLAIN.items() if reason in said), "")
    message = said.rpartition("message=")[2] if "container waiting reason" in said else said
    return _line(f"{known} ({message.rstrip(')')})" if known else said)


def _line(text: str) -> str:
    return first_line(Exception(text))
