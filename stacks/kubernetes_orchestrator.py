"""The orchestrator of `stacks.kubernetes`."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError
from zenml.client import Client
from zenml.config.build_configuration import BuildConfiguration
from zenml.constants import ORCHESTRATOR_DOCKER_IMAGE_KEY
from zenml.integrations.kubernetes import kube_utils
from zenml.integrations.kubernetes.constants import ORCHESTRATOR_ANNOTATION_KEY
from zenml.integrations.kubernetes.kube_utils import JobStatus
from zenml.integrations.kubernetes.orchestrators import KubernetesOrchestrator
from zenml.orchestrators import SubmissionResult
from zenml.orchestrators.exceptions import PipelineSubmissionError
from zenml.orchestrators.publish_utils import publish_failed_pipeline_run

from stacks.ending import SubmissionError, why
from stacks.errors import StackError, first_line
from stacks.kubernetes import KubernetesConfig, KubernetesSettings, pod_settings
from stacks.kubernetes_jobs import look
from stacks.namespaces import missing
from stacks.progress import Progress
from stacks.quiet import quiet
from stacks.snapshots import given, prepare

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse, PipelineSnapshotBase, PipelineSnapshotResponse

POD = ["python", "-m", "stacks.kubernetes_pod"]
NOT_OF_THE_ORCHESTRATOR = {
    "cpu": None, "memory": None, "gpu_count": 0, "shm": None, "volumes": (), "secrets": (), "time_limit": 0
}  # fmt: skip
"""Settings of the steps' pods only; where pods may run, and with whose rights images are pulled, is of both."""
OF_THE_ORCHESTRATOR = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
"""Upstream asks for 400Mi, and ZenML with all that the steps' image holds takes 700."""
POLL_S = 5.0
PATIENCE_S = 900.0
"""How long the cluster and ZenML may say nothing while a run is waited for."""
LAST_WORD_S = 60.0
"""How long after the orchestrator's pod has ended the run may still be told to go on."""


class AssayKubernetesOrchestrator(KubernetesOrchestrator):
    """Gives upstream the settings of `stacks.pods` in the form that it reads, and tells how a run ended."""

    @property
    def config(self) -> KubernetesConfig:
        """Configuration from the stack."""
        return cast(KubernetesConfig, self._config)

    @property
    def settings_class(self) -> type[KubernetesSettings]:
        """What may stand below `settings: orchestrator:`."""
        return KubernetesSettings

    def get_settings(self, container: Any) -> KubernetesSettings:
        """Settings of a step or a run, with its pod's."""
        settings = KubernetesSettings.model_validate(given(self, container))
        starter = pod_settings(settings.model_copy(update=NOT_OF_THE_ORCHESTRATOR), settings.start_limit)
        return settings.model_copy(
            update={
                "pod_settings": pod_settings(settings, settings.start_limit),
                "orchestrator_pod_settings": starter.model_copy(update={"resources": OF_THE_ORCHESTRATOR}),
            }
        )

    def get_docker_builds(self, snapshot: "PipelineSnapshotBase") -> list[BuildConfiguration]:
        """The one image of the orchestrator's pod and of all steps, which is built already."""
        docker = prepare(snapshot, self, self.config.any_tag)
        steps = [
            BuildConfiguration(key=ORCHESTRATOR_DOCKER_IMAGE_KEY, settings=docker, step_name=name)
            for name in snapshot.step_configurations
        ]
        return [BuildConfiguration(key=ORCHESTRATOR_DOCKER_IMAGE_KEY, settings=docker), *steps]

    def _submit_orchestrator_job(
        self,
        snapshot: "PipelineSnapshotResponse",
        command: list[str],
        args: list[str],
        environment: dict[str, str],
        placeholder_run: "PipelineRunResponse | None" = None,
    ) -> SubmissionResult | None:
        """Start the orchestrator's pod, with our program in it, and wait for the run instead of for that pod.

        Raises:
            SubmissionError: the cluster did not take it, or lacks what a step names.
        """
        where = f"Kubernetes at {self.config.kubernetes_context}"
        quiet()
        try:
            if lacking := self._missing(snapshot):
                raise SubmissionError(
                    f"namespace {self.config.kubernetes_namespace}: there is no {', no '.join(lacking)}; "
                    "see stacks/cluster/pipelines, and `assay stack doctor CONFIG`"
                )
            # Which steps need not run is found out in that pod, and part of it is where the ledger is.
            environment = {**Client().active_stack.environment, **environment}
            result = super()._submit_orchestrator_job(snapshot, POD, args, environment, placeholder_run)
        except SubmissionError:
            raise
        except (PipelineSubmissionError, ApiException) as error:
            raise SubmissionError(f"{where}: did not take the run: {first_line(error)}") from None
        except (HTTPError, OSError) as error:
            raise SubmissionError(f"{where}: does not answer: {first_line(error)}; see `assay stack doctor`") from None
        if result is None or result.wait_for_completion is None or placeholder_run is None:
            return result
        run = placeholder_run.id
        return SubmissionResult(wait_for_completion=lambda: self._wait(run, snapshot), metadata=result.metadata)

    def _missing(self, snapshot: "PipelineSnapshotResponse") -> list[str]:
        """Accounts and claims that the run names and the namespace lacks."""
        every = [self.get_settings(step) for step in snapshot.step_configurations.values()]
        accounts = {name for one in every for name in (one.service_account_name, one.step_pod_service_account_name)}
        claims = {volume.claim for one in every for volume in one.volumes}
        namespace = self.config.kubernetes_namespace
        try:
            return missing(self._k8s_core_api, namespace, {name for name in accounts if name}, claims)
        except ApiException:  # not allowed to look: the cluster says it later
            return []

    def _wait(self, run: UUID, snapshot: "PipelineSnapshotResponse") -> None:
        """Say what becomes of each step, until the run has ended.

        Raises:
            AssayError: it did not complete.
        """
        progress, since = Progress(run), Since()
        while not self._over(run, snapshot, progress, since):
            time.sleep(POLL_S)
        if error := why(run):
            raise error

    def _over(self, run: UUID, snapshot: "PipelineSnapshotResponse", progress: Progress, since: "Since") -> bool:
        """Look once. A server that does not answer is waited for: the run goes on without us."""
        try:
            ended = Client().get_pipeline_run(run, hydrate=False).status.is_finished
            progress.look()
            over, said = (False, "") if ended else self._of_the_orchestrator(run, snapshot)
        except (ApiException, HTTPError, OSError) as error:
            if since.silent is None:
                since.silent = time.monotonic()
            if time.monotonic() - since.silent < PATIENCE_S:
                return False
            raise StackError(f"the run goes on, and its servers do not answer: {first_line(error)}") from None
        since.silent = None
        if over and since.over is None:
            since.over = time.monotonic()
        if over and (said or time.monotonic() - (since.over or 0.0) > LAST_WORD_S):
            self._give_up(run, snapshot, said or "it ended before the run did")
        return ended

    def _of_the_orchestrator(self, run: UUID, snapshot: "PipelineSnapshotResponse") -> tuple[bool, str]:
        """Whether the orchestrator's job has ended, and why if it did not end well."""
        namespace, settings = self.config.kubernetes_namespace, self.get_settings(snapshot)
        jobs = kube_utils.list_jobs(self._k8s_batch_api, namespace, label_selector=f"run_id={run}").items
        mine = [job for job in jobs if ORCHESTRATOR_ANNOTATION_KEY in (job.metadata.annotations or {})]
        if not mine:
            return True, "somebody removed it"
        status, said = look(
            batch_api=self._k8s_batch_api,
            core_api=self._k8s_core_api,
            namespace=namespace,
            job_name=mine[0].metadata.name,
            fail_on_container_waiting_reasons=settings.fail_on_container_waiting_reasons,
        )
        return status is not JobStatus.RUNNING, (said or "") if status is JobStatus.FAILED else ""

    def _give_up(self, run: UUID, snapshot: "PipelineSnapshotResponse", said: str) -> None:
        """Leave neither a run that seems to go on, nor its token."""
        if Client().get_pipeline_run(run, hydrate=False).status.is_finished:
            return
        publish_failed_pipeline_run(run)
        secret = self.get_token_secret_name(snapshot.id)
        with suppress(ApiException):  # the orchestrator's pod has removed it
            kube_utils.delete_secret(self._k8s_core_api, self.config.kubernetes_namespace, secret)
        raise StackError(f"the orchestrator's pod: {said}")


@dataclass
class Since:
    """Moments of the monotonic clock, while a run is waited for."""

    silent: float | None = None
    over: float | None = None
    """The orchestrator's pod has ended."""
