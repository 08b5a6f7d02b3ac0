"""Runs that come again: one schedule a use case, on the orchestrator of the active stack."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from assay.config import load_use_case
from assay.crown import champion_of
from assay.digests import of_json
from assay.home import subfolder
from stacks.errors import StackError
from stacks.server import connected

if TYPE_CHECKING:
    from zenml.client import Client
    from zenml.models import ScheduleResponse

_FIELD = r"[0-9A-Za-z*/,-]+"
_CRON = re.compile(rf"{_FIELD}( {_FIELD}){{4}}")


@dataclass(frozen=True)
class Recurring:
    """A schedule, as the server has it."""

    use_case: str
    name: str
    cron: str

    def __str__(self) -> str:
        return f"{self.use_case:<20} {self.cron:<16} {self.name}"


def add(config: Path, cron: str, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """Let a use case be trained again and again, and say what changed.

    A schedule's name carries the digest of all that it depends on: what is there already is left alone, and what was
    there by another config, image, champion or time is removed once the new one is there. Runs do not overlap, none is
    made up for, and nothing is taken from the step cache, which cannot see that there are new images.

    Args:
        config: the use case's YAML.
        cron: five fields, in UTC.
        overrides: dotted keys below `use_case` to values.

    Raises:
        StackError: the time is not one, or the active stack cannot do it.
        ConfigError: the use case is not sound.
    """
    from stacks.snapshots import image

    if not _CRON.fullmatch(cron):
        raise StackError(f"--cron {cron!r}: five fields, such as '0 3 * * 1' for Mondays at three (UTC)")
    use_case = load_use_case(config, overrides)
    with connected() as client:
        from pipelines.document import run_document

        document = run_document(config, use_case)
        orchestrator = client.active_stack.orchestrator
        if not orchestrator.config.is_schedulable or orchestrator.config.is_local:
            raise StackError(f"the stack {client.active_stack.name} has no schedules; zenml stack set kubeflow")
        digest = of_json(
            [document, cron, champion_of(use_case.name), image(getattr(orchestrator.config, "any_tag", False))]
        )
        name = f"{use_case.name}-{digest[:12]}"
        old = _schedules(client, use_case.name)
        if name in (schedule.name for schedule in old):
            return []
        _start(document, name, cron)
        for schedule in old:
            client.delete_schedule(schedule.id)
        return [f"schedule {name}: new", *(f"schedule {schedule.name}: removed" for schedule in old)]


def listing() -> list[Recurring]:
    """All schedules of use cases."""
    with connected() as client:
        found = _schedules(client, None)
    return [Recurring(str(s.name).rpartition("-")[0], str(s.name), s.cron_expression or "") for s in found]


def remove(use_case: str) -> list[str]:
    """Remove the schedules of a use case, here and in the cluster, and say which these were."""
    with connected() as client:
        old = _schedules(client, use_case)
        for schedule in old:
            client.delete_schedule(schedule.id)
    return [f"schedule {schedule.name}: removed" for schedule in old]


def _schedules(client: "Client", use_case: str | None) -> "list[ScheduleResponse]":
    named = re.compile(rf"{re.escape(use_case) if use_case else '[a-z][a-z0-9_]*'}-[0-9a-f]{{12}}")
    return [s for s in client.list_schedules(size=1000, hydrate=True).items if named.fullmatch(str(s.name))]


def _start(document: dict[str, Any], name: str, cron: str) -> None:
    from zenml.config.schedule import Schedule

    from pipelines.training import training_pipeline

    resolved = subfolder("configs") / f"{name}.yaml"
    resolved.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    schedule = Schedule(name=name, cron_expression=cron, catchup=False)
    training_pipeline.with_options(config_path=str(resolved), schedule=schedule, enable_cache=False)()
