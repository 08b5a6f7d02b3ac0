"""What is served where, by whom that is said, and where those who say it disagree."""

import os
from dataclasses import asdict, dataclass
from typing import Any, get_args

from assay import registry
from assay.errors import AssayError, RegistryError
from assay.gate.ledger import (
    CROWNED,
    ENVIRONMENTS,
    Chain,
    Champion,
    Entry,
    Environment,
    Ledger,
    Promoted,
    Release,
    Released,
    RolledBack,
    Withdrawn,
    alias_problem,
)
from assay.registry import CHALLENGER, CHAMPION
from assay.release.targets import Kind, Open, State


@dataclass(frozen=True)
class EnvironmentStatus:
    """One environment."""

    environment: Environment
    release: Release | None
    """By the ledger."""
    since: str
    """When the ledger was told, ISO 8601; empty without a release."""
    verdict: str
    """The verdict that let the version in, a sentence."""
    state: State | None
    """What runs, by the environment itself."""
    problems: tuple[str, ...]
    """Where the two disagree, or an instance is not well."""


@dataclass(frozen=True)
class Status:
    """Of a use case."""

    model: str
    champion: Champion | None
    alias: str | None
    """Version that the registry's alias `champion` points at."""
    challenger: str | None
    environments: tuple[EnvironmentStatus, ...]
    problems: tuple[str, ...]
    """Those of the environments among them."""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        told = asdict(self)
        for row, environment in zip(told["environments"], self.environments, strict=True):
            release = environment.release
            row["release"] = release.model_dump(mode="json", exclude={"manifests"}) if release else None
        return told | {"champion": self.champion.model_dump(mode="json") if self.champion else None}


def collect(model: str, open_target: Open) -> Status:
    """Ask ledger, registry and environments; whichever cannot be reached is among the problems.

    Args:
        model: the use case.
        open_target: gives its targets.

    Raises:
        LedgerError: the ledger cannot be read or believed.
    """
    chain = Ledger.open(model).chain()
    environments = tuple(_environment(chain, name, open_target) for name in ENVIRONMENTS)
    aliases, faults = _aliases(model, chain)
    problems = (*(p for e in environments for p in e.problems), *faults, *_crown_problems(chain))
    return Status(model, chain.champion, aliases.get(CHAMPION), aliases.get(CHALLENGER), environments, problems)


def history(model: str, environment: Environment | None = None) -> list[Entry]:
    """What was ever promoted, released, withdrawn and rolled back; oldest first.

    Args:
        model: the use case.
        environment: leaves out releases elsewhere.
    """
    kinds = (Promoted, RolledBack, Released, Withdrawn)
    entries = [entry for entry in Ledger.open(model).chain().entries if isinstance(entry.body, kinds)]
    return [entry for entry in entries if environment in (None, _place(entry))]


def _place(entry: Entry) -> Environment:
    match entry.body:
        case Released(release=release):
            return release.environment
        case Withdrawn(environment=environment):
            return environment
        case _:
            return CROWNED


def _environment(chain: Chain, name: Environment, open_target: Open) -> EnvironmentStatus:
    release, entry = chain.release(name), chain.serving.get(name)
    if release is None or entry is None:
        return EnvironmentStatus(name, None, "", "", None, _unknown(chain, name, open_target))
    try:
        target = open_target(release.target, release.model, name)
        state = target.state()
        problems = _drift(release, state) or tuple(f"{name}: {line}" for line in target.drift(release))
    except AssayError as error:
        state, problems = None, (f"{name} cannot be asked: {error}",)
    return EnvironmentStatus(name, release, f"{entry.at:%Y-%m-%d %H:%M:%S}Z", _verdict(chain, release), state, problems)


def _unknown(chain: Chain, name: Environment, open_target: Open) -> tuple[str, ...]:
    """What runs in an environment in which the ledger knows of no release: a first promotion that was cut off."""
    if not chain.entries:
        return ()
    model, problems = chain.entries[0].use_case, []
    for kind in _kinds(chain):
        try:
            if state := open_target(kind, model, name).state():
                problems.append(
                    f"{name} runs version {state.version or '?'} ({kind}), and the ledger has no release there: a "
                    f"promotion was not finished; repeat it: assay promote {model}@{state.version} --to {name}"
                )
        except AssayError:
            continue  # an environment that nobody has set up, or may see, is none of our releases
    return tuple(problems)


def _kinds(chain: Chain) -> list[Kind]:
    """Of targets that may run this model: this machine, those on which it ever ran, and `$ASSAY_TARGET`."""
    known = {release.target for name in ENVIRONMENTS for release in chain.releases(name)}
    return [kind for kind in get_args(Kind) if kind in {"process", os.environ.get("ASSAY_TARGET"), *known}]


def _drift(release: Release, state: State | None) -> tuple[str, ...]:
    """How what runs differs from what the ledger says."""
    name, mend = release.environment, f"assay rollback {release.model} --environment {release.environment}"
    if state is None:
        return (f"{name} serves nothing, and by the ledger {release}; serve it again: {mend} --to-last-served",)
    if state.label != release.label:
        what = f"version {state.version or '?'} ({state.bundle_digest[:12] or 'of no release'})"
        return (
            f"{name} runs {what}, and the ledger has version {release.version}: a promotion was not finished, or "
            f"somebody else deployed; finish it by the same command, or: {mend} --to-last-served",
        )
    if not state.healthy:
        why = f": {'; '.join(state.problems)}" if state.problems else ""
        return (f"{name}: {state.ready} of {state.wanted} instances are ready{why}",)
    return ()


def _crown_problems(chain: Chain) -> tuple[str, ...]:
    release, champion = chain.release(CROWNED), chain.champion
    if champion is None or release is None or release.version == champion.version:
        return ()
    return (
        f"the champion is {champion}, and {CROWNED} serves version {release.version}; bring it there: "
        f"assay promote {release.model}@{champion.version} --to {CROWNED}",
    )


def _aliases(model: str, chain: Chain) -> tuple[dict[str, str], tuple[str, ...]]:
    try:
        with registry.briefly():
            aliases = registry.aliases(model)
    except RegistryError as error:
        return {}, (f"the registry cannot be asked: {error}",)
    problem = alias_problem(chain.champion, aliases.get(CHAMPION))
    return aliases, (f"{problem}; let it follow: assay ledger verify {model} --repair",) if problem else ()


def _verdict(chain: Chain, release: Release) -> str:
    """The verdict by which a bundle came in: that of its promotion, else the last PROMOTE on it."""
    for number, used_by in chain.used.items():
        body = chain.entries[used_by - 1].body
        if isinstance(body, Promoted) and body.bundle_digest == release.bundle_digest:
            return f"{chain.verdicts[number].sentence} (entry {number})"
    last = chain.promote_on(release.bundle_digest)
    return f"{chain.verdicts[last].sentence} (entry {last})" if last else ""
