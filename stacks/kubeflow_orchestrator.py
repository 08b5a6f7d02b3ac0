"""The orchestrator of `stacks.kubeflow`, where the numbers of the defects are explained."""

import contextlib
import sys
import time
import warnings
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from kfp import dsl, kubernetes
from kfp.compiler import Compiler
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError
from zenml.client import Client as ZenML
from zenml.config.build_configuration import BuildConfiguration
from zenml.constants import ORCHESTRATOR_DOCKER_IMAGE_KEY
from zenml.entrypoints import StepEntrypointConfiguration
from zenml.integrations.kubeflow.orchestrators import KubeflowOrchestrator
from zenml.integrations.kubeflow.orchestrators.kubeflow_orchestrator import ENV_KFP_RUN_ID
from zenml.orchestrators import SubmissionResult
from zenml.orchestrators.publish_utils import publish_failed_pipeline_run
from zenml.orchestrators.utils import get_orchestrator_run_name

from assay.errors import AssayError
from stacks.ending import SubmissionError, why
from stacks.errors import StackError, first_line
from stacks.kubeflow import KubeflowConfig, KubeflowSettings
from stacks.pods import SHM, Pod, promises
from stacks.progress import Progress
from stacks.quiet import quiet
from stacks.snapshots import given, prepare

if TYPE_CHECKING:
    from uuid import UUID

    from kfp import Client
    from kfp.dsl import PipelineTask
    from kfp.dsl.base_component import BaseComponent
    from zenml.models import PipelineRunResponse, PipelineSnapshotBase, PipelineSnapshotResponse, ScheduleResponse
    from zenml.stack import Stack

POLL_S = 5.0
PATIENCE_S = 900.0
"""How long Kubeflow and ZenML may say nothing while a run is waited for."""
BACKOFF = ("30s", 2.0, "3600s")
"""Between tries: 30 s, 1 min, 2 min, …, an hour at most: an evicted pod's node takes minutes to be replaced."""
ENDED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
SECRETS = ("TOKEN", "KEY", "PASSWORD", "SECRET")
REDACTED = "(redacted)"
RECURRING = "kubeflow_recurring_run"
SILENT = (
    "its container ended without a word, as one that is killed for its memory does: "
    "look at its pod, and at settings.orchestrator.memory"
)


class AssayKubeflowOrchestrator(KubeflowOrchestrator):
    """Compiles a pipeline with all that its steps ask of their pods, and starts it."""

    @property
    def config(self) -> KubeflowConfig:
        """Configuration from the stack."""
        return cast(KubeflowConfig, self._config)

    @property
    def settings_class(self) -> type[KubeflowSettings]:
        """What may stand below `settings: orchestrator:`."""
        return KubeflowSettings

    def get_settings(self, container: Any) -> KubeflowSettings:
        """Settings of a step or a run."""
        return KubeflowSettings.model_validate(given(self, container))

    def get_docker_builds(self, snapshot: "PipelineSnapshotBase") -> list[BuildConfiguration]:
        """The one image of all steps, which is built already."""
        docker = prepare(snapshot, self, self.config.any_tag)
        return [
            BuildConfiguration(key=ORCHESTRATOR_DOCKER_IMAGE_KEY, settings=docker, step_name=name)
            for name in snapshot.step_configurations
        ]

    def submit_pipeline(
        self,
        snapshot: "PipelineSnapshotResponse",
        stack: "Stack",
        base_environment: dict[str, str],
        step_environments: dict[str, dict[str, str]],
        placeholder_run: "PipelineRunResponse | None" = None,
    ) -> SubmissionResult | None:
        """Compile and start the pipeline; in place of all that upstream does there, for defects 1 to 3 and 6 to 9.

        Raises:
            SubmissionError: Kubeflow did not take it.
        """
        name = get_orchestrator_run_name(snapshot.pipeline_configuration.name).replace("_", "-")
        folder = Path(self.pipeline_directory)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.yaml"
        file.touch(mode=0o600)
        try:
            Compiler().compile(self._graph(snapshot, step_environments, name), str(file), pipeline_name=name)
            return self._send(snapshot, str(file), name, placeholder_run)
        finally:
            redact(file)

    def _graph(
        self, snapshot: "PipelineSnapshotResponse", environments: Mapping[str, Mapping[str, str]], name: str
    ) -> "BaseComponent":
        """One task a step, each with all that the step asks for."""
        steps = snapshot.step_configurations

        def graph() -> None:
            tasks: dict[str, PipelineTask] = {}
            for step in TopologicalSorter({step: steps[step].spec.upstream_steps for step in steps}).static_order():
                task = self._create_dynamic_component(*self._container(snapshot, step), step)()
                task.set_display_name(step).set_caching_options(enable_caching=False)
                task.after(*(tasks[before] for before in steps[step].spec.upstream_steps))
                for variable, value in environments[step].items():
                    task.set_env_variable(variable, value)
                task.set_env_variable(ENV_KFP_RUN_ID, dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
                tasks[step] = configure(task, self.get_settings(steps[step]))

        return dsl.pipeline(graph, name=name, display_name=name)

    def _container(self, snapshot: "PipelineSnapshotResponse", step: str) -> tuple[str, list[str], list[str]]:
        """Image, command and arguments of a step."""
        arguments = StepEntrypointConfiguration.get_entrypoint_arguments(step_name=step, snapshot_id=snapshot.id)
        return self.get_image(snapshot, step), StepEntrypointConfiguration.get_entrypoint_command(), arguments

    def _send(
        self, snapshot: "PipelineSnapshotResponse", file: str, name: str, run: "PipelineRunResponse | None"
    ) -> SubmissionResult | None:
        settings = self.get_settings(snapshot)
        quiet()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # KFP's client prints, and standard output is for results
                client = self._client(settings)
                if snapshot.schedule:
                    return self._schedule(client, snapshot, settings, file)
                return self._start(client, snapshot, settings, file, name, run)
        except ApiException as error:
            said = f"{error.status} {error.reason or ''} {error.body or ''}"
            said = f"did not take the pipeline: {' '.join(said.split())[:300]}; see `assay stack doctor`"
            raise SubmissionError(f"{self._place}: {said}") from None
        except (HTTPError, OSError, RuntimeError) as error:
            said = first_line(error)
            raise SubmissionError(f"{self._place}: does not answer: {said}; see `assay stack doctor`") from None

    def _start(
        self,
        client: "Client",
        snapshot: "PipelineSnapshotResponse",
        settings: KubeflowSettings,
        file: str,
        name: str,
        run: "PipelineRunResponse | None",
    ) -> SubmissionResult | None:
        run_id = client.create_run_from_pipeline_package(
            file,
            arguments={},
            run_name=name,
            experiment_name=snapshot.pipeline_configuration.name,
            enable_caching=False,
            namespace=settings.user_namespace,
            service_account=self.config.service_account,
        ).run_id
        if not settings.synchronous:
            return None
        return SubmissionResult(
            wait_for_completion=lambda: wait(client, run_id, settings.timeout, run.id if run else None)
        )

    def _schedule(
        self, client: "Client", snapshot: "PipelineSnapshotResponse", settings: KubeflowSettings, file: str
    ) -> SubmissionResult:
        schedule = snapshot.schedule
        if schedule is None or not schedule.cron_expression:
            raise SubmissionError("a schedule needs a cron expression, such as '0 3 * * 1'")
        experiment = client.create_experiment(snapshot.pipeline_configuration.name, namespace=settings.user_namespace)
        recurring = client.create_recurring_run(
            experiment_id=experiment.experiment_id,
            job_name=schedule.name,
            pipeline_package_path=file,
            enable_caching=False,
            cron_expression=six_fields(schedule.cron_expression),
            start_time=schedule.utc_start_time,
            end_time=schedule.utc_end_time,
            max_concurrency=1,
            no_catchup=not schedule.catchup,
            service_account=self.config.service_account,
        )
        return SubmissionResult(metadata={RECURRING: recurring.recurring_run_id})

    def delete_schedule(self, schedule: "ScheduleResponse") -> None:
        """End a recurring run; upstream has no way to."""
        identity = schedule.run_metadata.get(RECURRING)
        if not identity:
            raise StackError(f"schedule {schedule.name}: no recurring run is known; look for it in Kubeflow's page")
        try:
            self._client(KubeflowSettings()).delete_recurring_run(str(identity))
        except ApiException as error:
            if error.status != 404:  # somebody removed it there
                raise StackError(f"schedule {schedule.name}: not removed: {first_line(error)}") from None

    def _client(self, settings: KubeflowSettings) -> "Client":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of KFP's client, about KFP servers before 2.0
            return self._get_kfp_client(settings=settings)

    @property
    def _place(self) -> str:
        return f"Kubeflow Pipelines at {self.config.kubeflow_hostname or self.config.kubernetes_context}"


def configure(task: "PipelineTask", pod: Pod) -> "PipelineTask":
    """Put all that a step asks for onto its task."""
    _resources(task, pod)
    _volumes(task, pod)
    _placement(task, pod)
    for name, value in promises(pod).items():
        task.set_env_variable(name, value)
    for variables in pod.secrets:
        for variable, key in variables.env.items():  # one by one, for KFP has room for one variable a key
            kubernetes.use_secret_as_env(task, variables.secret, {key: variable})
    if pod.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(pod.image_pull_secrets))
    if pod.time_limit:
        kubernetes.set_timeout(task, pod.time_limit)
    if pod.retries:
        task.set_retry(pod.retries, *BACKOFF)
    return task


def _resources(task: "PipelineTask", pod: Pod) -> None:
    if pod.cpu:
        task.set_cpu_request(f"{pod.cpu:g}").set_cpu_limit(f"{pod.cpu:g}")
    if pod.memory:
        task.set_memory_request(pod.memory).set_memory_limit(pod.memory)
    if pod.gpu_count:
        task.set_accelerator_type(pod.accelerator).set_accelerator_limit(pod.gpu_count)


def _volumes(task: "PipelineTask", pod: Pod) -> None:
    if pod.shm:
        kubernetes.empty_dir_mount(task, "shm", SHM, medium="Memory", size_limit=pod.shm)
    for volume in pod.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.sub_path)


def _placement(task: "PipelineTask", pod: Pod) -> None:
    for toleration in pod.tolerations:
        given = toleration.model_dump(exclude_none=True, exclude={"seconds"})
        kubernetes.add_toleration(task, **given, toleration_seconds=toleration.seconds)
    for label, value in pod.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for label, value in pod.labels.items():
        kubernetes.add_pod_label(task, label, value)


def six_fields(cron: str) -> str:
    """KFP's cron expressions begin with seconds; five fields, as everywhere else, mean second 0."""
    return f"0 {cron}" if len(cron.split()) == 5 else cron


def wait(client: "Client", kubeflow_run: str, timeout_s: float, run_id: "UUID | None") -> None:
    """Wait for the end of a run, and say meanwhile how far it is.

    Args:
        client: of Kubeflow Pipelines.
        kubeflow_run: its run.
        timeout_s: how long to wait.
        run_id: ZenML's run, which knows why a step failed.

    Raises:
        AssayError: the run did not succeed, or did not end in time.
    """
    progress = Progress(run_id) if run_id else None
    answered = time.monotonic()
    end = answered + timeout_s
    while True:
        try:
            run = client.get_run(kubeflow_run)
            if progress:
                progress.look()
            if run.state in ENDED:
                break
            answered = time.monotonic()
        except (ApiException, HTTPError, OSError) as error:  # the run goes on without us
            if time.monotonic() - answered > PATIENCE_S:
                raise StackError(
                    f"the run {kubeflow_run} goes on, and its servers do not answer: {first_line(error)}"
                ) from None
        if time.monotonic() > end:
            raise StackError(
                f"the run {kubeflow_run} goes on after {timeout_s:.0f} s; settings.orchestrator.timeout says so"
            )
        time.sleep(POLL_S)
    if run.state != "SUCCEEDED":
        raise _of_zenml(run_id) or _of_kubeflow(run)


def _of_zenml(run_id: "UUID | None") -> AssayError | None:
    """Why a run failed, as far as its steps could tell; it is over for ZenML then, too."""
    if run_id is None:
        return None
    run = ZenML().get_pipeline_run(run_id)
    if not run.status.is_finished:
        publish_failed_pipeline_run(run_id)
    return why(run_id, SILENT) if run.steps else None


def _of_kubeflow(run: Any) -> AssayError:
    """Why a run failed of which no step had begun for ZenML."""
    tasks = (run.run_details and run.run_details.task_details) or ()
    names = [task.display_name for task in tasks if task.state == "FAILED"]
    failed = [name for name in names if name != "root" and not name.endswith("-driver")]
    if failed:
        return StackError(f"step {failed[0]}: {SILENT}")
    return StackError(f"the run {run.run_id} ended as {run.state} in Kubeflow; its steps' logs say why")


def redact(file: Path) -> None:
    """Take what is secret out of the environments in a compiled pipeline, and let nobody else read it."""
    if not file.is_file():
        return
    file.chmod(0o600)
    documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    for document in documents:
        for executor in document.get("deploymentSpec", {}).get("executors", {}).values():
            for variable in executor["container"].get("env", ()):
                if any(word in variable["name"] for word in SECRETS):
                    variable["value"] = REDACTED
    partial = file.with_name(f".{file.name}")
    partial.touch(mode=0o600)
    partial.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    partial.replace(file)
