"""Releases in words."""

from typing import Any

from assay.release.status import EnvironmentStatus, Status


def outcome_text(outcome: dict[str, Any]) -> str:
    """Of `Outcome.as_json`."""
    release = outcome["release"]
    replaced = f", instead of {outcome['replaced']}" if outcome["replaced"] else ""
    lines = [
        f"{release['environment']} serves {release['model']}@{release['version']}{replaced}",
        f"  bundle {release['bundle_digest'][:12]}, ledger entry {outcome['entry']}",
        f"  {outcome['seen']}",
        *(f"  to do: {note}" for note in outcome["notes"]),
        f"  assay status {release['model']}",
    ]
    return "\n".join(lines)


def status_text(status: Status) -> str:
    """A few lines a use case: who is champion, each environment, and what is wrong."""
    champion = str(status.champion) if status.champion else "none"
    lines = [
        status.model,
        f"  champion    {champion}" + (f"   alias at {status.alias}" if status.alias else ""),
        *([f"  challenger  version {status.challenger}"] if status.challenger else []),
        *(line for environment in status.environments for line in _environment(environment)),
        *(f"  !  {problem}" for problem in status.problems),
    ]
    return "\n".join(lines)


def _environment(environment: EnvironmentStatus) -> list[str]:
    release, state = environment.release, environment.state
    if release is None:
        return [f"  {environment.environment:<10}  nothing was ever released"]
    health = f"{state.ready} of {state.wanted} ready" if state else "not there"
    line = f"  {environment.environment:<10}  version {release.version}, {health}, on {release.target}"
    verdict = [f"              by {environment.verdict}"] if environment.verdict else []
    return [f"{line}, since {environment.since}", *verdict]
