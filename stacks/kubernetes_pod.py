"""What the orchestrator's pod runs (`python -m stacks.kubernetes_pod`): upstream's program, with our look at the jobs.

It also keeps what the cluster says of a step's pod with the run, where a person finds it: upstream writes it into the
log of the orchestrator's pod, and nowhere else.
"""

from typing import Any
from uuid import UUID

from kubernetes.client import BatchV1Api
from zenml.client import Client
from zenml.enums import MetadataResourceTypes
from zenml.integrations.kubernetes import kube_utils
from zenml.integrations.kubernetes.constants import STEP_NAME_ANNOTATION_KEY
from zenml.integrations.kubernetes.kube_utils import JobStatus
from zenml.integrations.kubernetes.orchestrators import kubernetes_orchestrator_entrypoint as upstream
from zenml.models import RunMetadataResource

from stacks.ending import BECAUSE
from stacks.kubernetes_jobs import look


def looked(*, batch_api: BatchV1Api, namespace: str, job_name: str, **given: Any) -> tuple[JobStatus, str | None]:
    """`look`, and a failure is kept with the run."""
    job = batch_api.read_namespaced_job(job_name, namespace).metadata  # a look may remove it
    status, said = look(batch_api=batch_api, namespace=namespace, job_name=job_name, **given)
    if status is JobStatus.FAILED:
        _keep(UUID(job.labels["run_id"]), job.annotations[STEP_NAME_ANNOTATION_KEY], said or "")
    return status, said


def _keep(run: UUID, step: str, said: str) -> None:
    of_the_run = RunMetadataResource(id=run, type=MetadataResourceTypes.PIPELINE_RUN)
    Client().create_run_metadata(metadata={f"{BECAUSE}{step}": said}, resources=[of_the_run])


def main() -> None:
    """Carry out the pipeline."""
    kube_utils.check_job_status = looked  # type: ignore[assignment] # upstream gives all by name
    upstream.main()


if __name__ == "__main__":
    main()
