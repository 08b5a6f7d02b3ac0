"""`assay promote`, `rollback`, `status` and `history`."""

import getpass
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.config import load_use_case
from assay.errors import AssayError
from assay.options import Examples, FiniteRange, json_option, show

if TYPE_CHECKING:
    from assay.gate.ledger import Environment
    from assay.release.promotion import Wish

ENVIRONMENT = click.Choice(["staging", "production"])
TARGET = click.Choice(["process", "kubernetes"])


def _actor() -> str:
    """Who is at work, for the ledger, which would refuse a name when all is done: `$ASSAY_ACTOR`, else the user."""
    from assay.gate.ledger.entries import LINE, MAX_ACTOR

    try:
        name = os.environ.get("ASSAY_ACTOR") or getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's account may have no name
        name = f"user {os.getuid()}"
    if len(name) > MAX_ACTOR or not re.fullmatch(LINE, name):
        raise AssayError(f"ASSAY_ACTOR: must be one line of at most {MAX_ACTOR} characters, for the ledger")
    return name


@click.command(
    cls=Examples,
    epilog="""
    assay promote demo@3 --to staging
    assay promote demo@3 --to production --dry-run
    assay promote demo@3 --to production --target kubernetes --image registry.example/assay-demo@sha256:…
""",
)
@click.argument("model")
@click.option("--to", "environment", required=True, type=ENVIRONMENT, help="Where it shall serve.")
@click.option(
    "--target",
    type=TARGET,
    envvar="ASSAY_TARGET",
    help="A process on this machine, or the cluster of KUBECONFIG; where it serves already, else a process.",
)
@click.option(
    "--image",
    default="",
    envvar="ASSAY_RELEASE_IMAGE",
    help="Image with this bundle: name@sha256:…; by default the one released last.",
)
@click.option("--policy", "config", type=click.Path(path_type=Path), help="The use case's YAML, as for `assay gate`.")
@click.option("--max-age", type=FiniteRange(0, min_open=True), help="Days that the verdict may be old; 30.")
@click.option("--images", type=click.IntRange(1), help="Test images in the rehearsal, at most; 500.")
@click.option("--soak", type=FiniteRange(0), help="Seconds to watch it; 20 in staging, 90 in production.")
@click.option("--max-p95", type=FiniteRange(0, min_open=True), help="Milliseconds allowed at the 95th percentile.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and what would change; touch nothing.")
@json_option
def promote(
    model: str,
    environment: str,
    target: str | None,
    image: str,
    config: Path | None,
    max_age: float | None,
    images: int | None,
    soak: float | None,
    max_p95: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put MODEL, a name@version that the gate passed, into an environment.

    It is rehearsed, deployed, watched and, in production, crowned; or what was served before is put back (exit code 4).
    """
    os.environ.setdefault("ZENML_LOGGING_VERBOSITY", "CRITICAL")
    from assay.assessment import use_case_as_trained
    from assay.release.promotion import wish_of

    given = {"max_age_days": max_age, "images": images, "soak_s": soak, "max_p95_ms": max_p95}
    wish = wish_of(model=model, environment=environment, target=target, image=image or None, **given)
    if dry_run:
        lines = _plan(wish)
        show({"plan": lines} if as_json else "\n".join(lines), as_json)
        return
    use_case = load_use_case(config) if config else use_case_as_trained(model)
    from assay.release.telling import outcome_text
    from pipelines.run import run_promotion

    outcome = run_promotion(use_case, wish, _actor())
    show(outcome if as_json else outcome_text(outcome), as_json)


@click.command(
    cls=Examples,
    epilog="""
    assay rollback demo --to-last-served
    assay rollback demo --to 2 --environment staging
""",
)
@click.argument("model")
@click.option("--environment", default="production", show_default=True, type=ENVIRONMENT)
@click.option("--to-last-served", is_flag=True, help="To what was served before, by the ledger.")
@click.option("--to", "version", help="To this version, which was served there.")
@click.option("--soak", default=0.0, type=FiniteRange(0), help="Seconds to watch it afterwards.")
@json_option
def rollback(
    model: str, environment: "Environment", to_last_served: bool, version: str | None, soak: float, as_json: bool
) -> None:
    """Serve an earlier release of MODEL again.

    It takes the ledger and the environment alone: neither MLflow nor ZenML need be up.
    """
    if to_last_served == (version is not None):
        raise AssayError("rollback: give either --to-last-served or --to VERSION")
    from assay.release.rollback import rollback_model
    from assay.release.telling import outcome_text
    from serving.targets import open_target

    outcome = rollback_model(model, environment, version, soak, _actor(), open_target).as_json()
    show(outcome if as_json else outcome_text(outcome), as_json)


@click.command(cls=Examples, epilog="assay stop\nassay stop demo --environment staging")
@click.argument("model", required=False)
@click.option("--environment", type=ENVIRONMENT, help="Only this one.")
def stop(model: str | None, environment: "Environment | None") -> None:
    """End what serves MODEL, or everything, as processes of this machine; `assay rollback` serves it again.

    What runs on a cluster is left alone.
    """
    from assay.gate.ledger import ENVIRONMENTS, Ledger, use_cases
    from assay.release.process import Process

    ended = [
        process
        for name in (use_cases() if model is None else [Ledger.open(model).use_case])
        for process in (Process(name, one) for one in ENVIRONMENTS if environment in (None, one))
        if process.state()
    ]
    for process in ended:
        process.remove()
    lines = [f"{process.environment} of {process.model}: ended" for process in ended]
    show("\n".join(lines) or "nothing serves as a process of this machine", False)


@click.command(cls=Examples, epilog="assay status\nassay status demo --json")
@click.argument("model", required=False)
@json_option
def status(model: str | None, as_json: bool) -> int:
    """Say what is served where, by which verdict, and whether ledger, registry and environments agree.

    The exit code is 4 if they do not, or an instance is not well.
    """
    from assay.gate.ledger import use_cases
    from assay.release.status import collect
    from assay.release.targets import ReleaseError
    from assay.release.telling import status_text
    from serving.targets import open_target

    found = [collect(name, open_target) for name in (use_cases() if model is None else [model])]
    text = "\n\n".join(map(status_text, found)) or "nothing was judged or promoted yet"
    show({"models": [one.as_json() for one in found]} if as_json else text, as_json)
    return ReleaseError.exit_code if any(one.problems for one in found) else 0


@click.command(cls=Examples, epilog="assay history demo\nassay history demo --environment staging --json")
@click.argument("model")
@click.option("--environment", type=ENVIRONMENT, help="Only what happened there.")
@json_option
def history(model: str, environment: "Environment | None", as_json: bool) -> None:
    """List every promotion, release, withdrawal and rollback of MODEL, oldest first."""
    from assay.gate.ledger import listing
    from assay.release.status import history as entries_of

    entries = entries_of(model, environment)
    rows = [entry.model_dump(mode="json") for entry in entries]
    show({"entries": rows} if as_json else "\n".join(listing(entries)) or "nothing was promoted yet", as_json)


def _plan(wish: "Wish") -> list[str]:
    from assay.release.promotion import fetch, plan
    from serving.targets import open_target

    version, bundle = fetch(wish.model)
    return plan(open_target(wish.target, version.name, wish.environment), wish, version, bundle)
