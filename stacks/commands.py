"""The commands `assay stack` and `assay schedule`."""

from pathlib import Path
from typing import Any

import click

from assay.options import Group, json_option, overrides, show


@click.group(cls=Group)
def stack() -> None:
    """Make and check what the pipelines run on: local, kubeflow, kubernetes."""


@stack.command(epilog="assay stack apply kubeflow --check\nassay stack apply kubeflow")
@click.argument("name")
@click.option("--check", is_flag=True, help="Only say what would change; the exit code is 1 if anything would.")
@json_option
def apply(name: str, check: bool, as_json: bool) -> int:
    """Make ZenML's server hold the stack NAME, as its YAML in stacks/ says.

    What differs from one environment to the next is taken from environment variables. Again is like once.
    """
    from stacks.apply import apply as apply_stack

    changes = apply_stack(name, check)
    _print({"stack": name, "changes": changes, "applied": not check}, changes or ["nothing to change"], as_json)
    return 1 if check and changes else 0


@stack.command(name="list", epilog="assay stack list")
@json_option
def stacks(as_json: bool) -> None:
    """List the stacks of stacks/, and which of them the server has."""
    from stacks.apply import known

    found = known()
    lines = [f"{s.name:<12} {'active' if s.active else 'applied' if s.applied else 'not applied'}" for s in found]
    _print({"stacks": [vars(one) for one in found]}, lines, as_json)


@stack.command(epilog="assay stack doctor\nassay stack doctor configs/surface_crack.yaml --json")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@json_option
def doctor(config: Path | None, as_json: bool) -> int:
    """Check the services and permissions that the active stack needs.

    With a use case's CONFIG, on Kubernetes without Kubeflow, the volumes that it names too. Each fault comes with its
    remedy; the exit code is 1 if there is any.
    """
    from stacks.doctor import examine

    findings = examine(config)
    _print({"findings": [vars(finding) for finding in findings]}, [str(finding) for finding in findings], as_json)
    return 1 if any(finding.state == "fault" for finding in findings) else 0


@click.group(cls=Group)
def schedule() -> None:
    """Train a use case again and again, on the active stack."""


@schedule.command(epilog="assay schedule add configs/surface_crack.yaml --cron '0 3 * * 1'")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--cron", required=True, help="Five fields, in UTC.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value of the use case.")
@json_option
def add(config: Path, cron: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Let the use case CONFIG be trained at the times of a cron expression, in place of any schedule it has."""
    from stacks.schedules import add as add_schedule

    changes = add_schedule(config, cron, overrides(settings))
    _print({"changes": changes}, changes or ["nothing to change"], as_json)


@schedule.command(name="list", epilog="assay schedule list")
@json_option
def schedules(as_json: bool) -> None:
    """List the schedules."""
    from stacks.schedules import listing

    found = listing()
    _print({"schedules": [vars(one) for one in found]}, [str(one) for one in found] or ["no schedules"], as_json)


@schedule.command(epilog="assay schedule remove surface_crack")
@click.argument("use_case")
@json_option
def remove(use_case: str, as_json: bool) -> None:
    """Remove the schedule of USE_CASE."""
    from stacks.schedules import remove as remove_schedule

    changes = remove_schedule(use_case)
    _print({"changes": changes}, changes or [f"{use_case} has no schedule"], as_json)


def _print(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    show(result if as_json else "\n".join(lines), as_json)
