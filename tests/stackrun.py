"""What a team does with a Kubeflow stack, in one process against real servers; prints what came of it as JSON.

Run by tests/integration/test_stacks.py, as `python stackrun.py KUBEFLOW_HOST CONFIG…`, with the environment that the
stack's YAML asks for. One process, because to import ZenML and torch takes longer than all that is done here.
"""

import json
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.home import use_local_environment


def told(action: Callable[[], Any]) -> Any:
    """What an action gives, or the one line that a user would see."""
    try:
        return action()
    except AssayError as error:
        return f"{type(error).__name__}: {error}"


def endpoint_becomes(host: str, **state: Any) -> None:
    body = json.dumps(state).encode()
    urllib.request.urlopen(f"{host}/apis/v2beta1/test", data=body, timeout=10).close()


def applied() -> dict[str, Any]:
    from stacks.apply import apply, known

    result = {"checked": apply("kubeflow", check=True), "known before": [vars(one) for one in known()]}
    result |= {"first": apply("kubeflow"), "second": apply("kubeflow")}
    os.environ["ASSAY_WAIT"] = "false"
    result["kubernetes"] = apply("kubernetes")
    del os.environ["ASSAY_WAIT"]
    os.environ |= {"AWS_REGION": "eu-central-1", "MLFLOW_TRACKING_PASSWORD": "another-password"}
    result["moved"] = apply("kubeflow")
    return result | {"moved twice": apply("kubeflow"), "known": [vars(one) for one in known()]}


def run(config: str) -> dict[str, Any]:
    from zenml.client import Client

    from pipelines.training import training_pipeline

    made = training_pipeline.with_options(config_path=config)()
    snapshot = Client().get_pipeline_run(made.id).snapshot
    steps = snapshot.step_configurations
    return {
        "retries": {name: step.config.retry.max_retries if step.config.retry else 0 for name, step in steps.items()},
        "upstream": {name: step.spec.upstream_steps for name, step in steps.items()},
        "code_path": snapshot.code_path,
        "snapshot": str(snapshot.id),
    }


def scheduled(config: str) -> dict[str, Any]:
    from stacks.schedules import add, listing, remove

    result = {"first": add(Path(config), "0 3 * * 1"), "second": add(Path(config), "0 3 * * 1")}
    result |= {"listed": [str(one) for one in listing()], "moved": add(Path(config), "30 4 * * *")}
    result |= {"listed again": [str(one) for one in listing()], "removed": remove("demo"), "left": listing()}
    return result | {"wrong": told(lambda: add(Path(config), "every day"))}


def on_kubernetes(config: str) -> dict[str, Any]:
    """The same config on the other cluster, as far as whoever starts the run goes: the orchestrator's job."""
    from zenml.client import Client

    Client().activate_stack("kubernetes")
    result = run(config)
    orchestrator = Client().active_stack.orchestrator
    steps = Client().get_snapshot(result["snapshot"]).step_configurations
    pods = {name: orchestrator.get_settings(step).pod_settings for name, step in steps.items()}
    Client().activate_stack("kubeflow")
    return result | {"pods": {name: pod.model_dump(mode="json") for name, pod in pods.items()}}


def faults(host: str, config: str) -> dict[str, Any]:
    from stacks.doctor import examine

    result = {"healthy": [str(finding) for finding in examine()]}
    endpoint_becomes(host, state="FAILED")
    result["failed"] = told(lambda: run(config))
    endpoint_becomes(host, refuse=403)
    result["refused"] = told(lambda: run(config))
    endpoint_becomes(host, mute=True)
    result["gone"] = told(lambda: run(config))
    ledger, os.environ["ASSAY_LEDGER"] = os.environ["ASSAY_LEDGER"], "/elsewhere"
    result["another ledger"] = told(lambda: run(config))
    os.environ["ASSAY_LEDGER"] = ledger
    os.environ.pop("ASSAY_IMAGE")
    result["no image"] = told(lambda: run(config))
    return result | {"doctor": [str(finding) for finding in examine()]}


def main(host: str, *configs: str) -> None:
    use_local_environment()
    from zenml.client import Client

    result: dict[str, Any] = {"applied": applied()}
    Client().activate_stack("kubeflow")
    result["runs"] = {Path(config).stem: told(lambda config=config: run(config)) for config in configs}
    result["kubernetes"] = told(lambda: on_kubernetes(configs[1]))
    result["scheduled"] = scheduled(configs[0])
    result["faults"] = faults(host, configs[0])
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
