"""Carry out a compiled pipeline in containers of this machine, by KFP's own local runner.

Run as `python kfprunner.py RUN_ID FOLDER` with the compiled pipeline on standard input: it holds the run's token. What
the runner leaves to the cluster is done here, from the same pipeline: limits of memory, /dev/shm, a container's rights,
and retries; and a container that died has failed, which the runner itself does not see.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import docker
import yaml
from kfp import components, local
from kfp.local import docker_task_handler, logging_utils

LABEL = "assay-test-kfp"
UNITS = {"Gi": 2**30, "Mi": 2**20, "Ki": 2**10, "G": 10**9, "M": 10**6}
PAUSE_S = 1.0
"""Between two tries, in place of the half a minute and more of a cluster."""


class Runs:
    """Starts the container of a task as the compiled pipeline says."""

    def __init__(self, pipeline: dict[str, Any], pods: dict[str, Any], run: str) -> None:
        self.run = run
        self.executors = pipeline["deploymentSpec"]["executors"]
        self.tasks = pipeline["root"]["dag"]["tasks"]
        self.pods = pods

    def task(
        self, client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **more: Any
    ) -> int:
        """In place of `kfp.local.docker_task_handler.run_docker_container`; gives the exit code."""
        step = command[command.index("--step_name") + 1]
        tries = 1 + int(self.tasks[step].get("retryPolicy", {}).get("maxRetryCount", 0))
        for number in range(1, tries + 1):
            labels = {LABEL: self.run, "step": step, "try": str(number)}
            code = self._once(client, image, command, volumes, labels, step, more)
            print(f"{step}: try {number} of {tries} ended with {code}", flush=True)
            if not code:
                break
            time.sleep(PAUSE_S)
        return code

    def _once(
        self,
        client: docker.DockerClient,
        image: str,
        command: list[str],
        volumes: dict[str, Any],
        labels: dict[str, str],
        step: str,
        more: dict[str, Any],
    ) -> int:
        container = client.containers.run(
            image, command, detach=True, volumes=volumes, labels=labels, read_only=True, tmpfs={"/tmp": ""},
            cap_drop=["ALL"], security_opt=["no-new-privileges"], **self._limits(step), **more,
        )  # fmt: skip
        try:
            for line in container.logs(stream=True):
                print(line.decode(errors="replace"), end="", flush=True)
            return int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)

    def _limits(self, step: str) -> dict[str, Any]:
        asked = self.executors[f"exec-{step}"]["container"].get("resources", {})
        limits: dict[str, Any] = {}
        if memory := asked.get("resourceMemoryLimit"):
            limits |= {"mem_limit": in_bytes(memory), "memswap_limit": in_bytes(memory)}
        for mount in self.pods.get(f"exec-{step}", {}).get("emptyDirMounts", []):
            limits["shm_size"] = in_bytes(mount["sizeLimit"])
        return limits


def in_bytes(size: str) -> int:
    unit = next((unit for unit in UNITS if size.endswith(unit)), "")
    return int(float(size.removesuffix(unit)) * UNITS.get(unit, 1))


def main(run: str, folder: str) -> None:
    sent = json.load(sys.stdin)
    pipeline = sent.get("pipeline_spec", sent)
    platform = sent.get("platform_spec", {}).get("platforms", {}).get("kubernetes", {})
    pods = platform.get("deploymentSpec", {}).get("executors", {})
    docker_task_handler.run_docker_container = Runs(pipeline, pods, run).task
    # It indents what is printed by going through standard output, which a stream that nobody reads does not stand.
    logging_utils.indented_print = lambda *_, **__: logging_utils.local_logger_context()
    root = Path(folder, run)
    root.mkdir(parents=True)
    root.chmod(0o777)
    environment = {"KFP_RUN_ID": run}
    local.init(local.DockerRunner(network_mode="host", environment=environment), pipeline_root=str(root))
    text = yaml.safe_dump(pipeline) + ("---\n" + yaml.safe_dump(sent["platform_spec"]) if pods else "")
    components.load_component_from_text(text)()


if __name__ == "__main__":
    main(*sys.argv[1:])
