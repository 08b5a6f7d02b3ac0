"""`assay github …`, `assay notify` and `assay doctor github`: what the workflows call; see docs/github.md."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import click

from assay.errors import AssayError, DataError
from assay.notify import News, What
from assay.options import Examples, Group, json_option, show

ENVIRONMENT = click.Choice(["staging", "production"])
DRIFT_BOUND = 0.2
"""By default: of a population stability index, where one speaks of a shift."""


@click.group(cls=Group)
def github() -> None:
    """What the workflows in .github/ call: outputs, the page of a run, the comment on a pull request."""
    from assay.github.runner import drop_empty_variables

    drop_empty_variables()


@github.command(epilog="assay github train demo --settings 'recipe.epochs=2'")
@click.argument("use_case")
@click.option("--settings", default="", help="What to replace in the use case: one KEY=VALUE a line.")
@click.option("--bootstrap", default="false", type=click.BOOL, help="The first model may pass without a champion.")
@click.option("--reason", default="", help="Why, for the news.")
def train(use_case: str, settings: str, bootstrap: bool, reason: str) -> int:
    """Train configs/USE_CASE.yaml with `assay train`; outputs verdict, model, digest and report, a file.

    The exit code is 0 for every verdict: a model that is not good enough is no failure of the workflow.
    """
    from assay.github.running import run, training_words

    return run("train", lambda: training_words(use_case, settings, bootstrap), use_case, reason=reason)


@github.command(epilog="assay github stack kubeflow")
@click.argument("name")
def stack(name: str) -> None:
    """Apply the stack NAME and make it the active one.

    As `assay stack apply` and `zenml stack set`, which would take variables that GitHub leaves empty for values.
    """
    from stacks.apply import apply
    from stacks.server import connected

    changes = apply(name)
    with connected() as client:
        client.activate_stack(name)
    show("\n".join([*changes, f"{name} is the active stack"]), False)


@github.command(epilog="assay github promote demo@3 --to staging --reason 'better on dark walls'")
@click.argument("model")
@click.option("--to", "environment", required=True, type=ENVIRONMENT)
@click.option("--digest", default="", help="Of the bundle: promote nothing else, whatever the registry says.")
@click.option("--image", default="", help="The image of the service with this bundle, name@sha256:…")
@click.option("--soak", default="", help="Seconds to watch it, as for `assay promote`.")
@click.option("--reason", default="", help="Why, for the ledger and the news.")
def promote(model: str, environment: str, digest: str, image: str, soak: str, reason: str) -> int:
    """Promote MODEL, a name@version, with `assay promote`, and say what is served then."""
    from assay.github.releasing import check_request, served
    from assay.github.running import run

    def words() -> list[str]:
        check_request(model, digest, image)
        given = {"image": image, "soak": soak}
        options = [f"--{name}={value}" for name, value in given.items() if value]
        return [f"--to={environment}", *options, "--", model]

    use_case = model.partition("@")[0]
    return served(use_case, run("promote", words, use_case, environment, reason))


@github.command(epilog="assay github rollback demo --environment production --to last-served --reason 'false alarms'")
@click.argument("use_case")
@click.option("--environment", required=True, type=ENVIRONMENT)
@click.option("--to", "version", default="last-served", show_default=True, help="A version, or `last-served`.")
@click.option("--reason", default="", help="Why, for the ledger and the news.")
def rollback(use_case: str, environment: str, version: str, reason: str) -> int:
    """Serve an earlier release with `assay rollback`, and say what is served then."""
    from assay.github.releasing import check_way_back, served
    from assay.github.running import run

    def words() -> list[str]:
        check_way_back(use_case, version)
        way = "--to-last-served" if version == "last-served" else f"--to={version}"
        return [f"--environment={environment}", way, "--", use_case]

    return served(use_case, run("rollback", words, use_case, environment, reason))


@github.command(epilog="assay github changed surface_crack --drift 0.31")
@click.argument("use_case")
@click.option("--settings", default="", help="As for `assay github train`.")
@click.option("--drift", "drift_text", default="", help="As it was measured; without one, only the data is looked at.")
@click.option("--bound", default=str(DRIFT_BOUND), show_default=True, help="A drift above it is a reason to train.")
@click.option("--force", default="false", type=click.BOOL, help="Train whatever is new or not.")
def changed(use_case: str, settings: str, drift_text: str, bound: str, force: bool) -> None:
    """Say whether there is something new to train USE_CASE on, and why not; output: train."""
    from assay.config import load_use_case
    from assay.github.due import Due, due, number
    from assay.github.identity import kept_fresh
    from assay.github.markdown import code
    from assay.github.runner import outputs, summary
    from assay.github.running import config_of, failing_is_told, lines
    from assay.options import overrides

    with failing_is_told("retrain", use_case), kept_fresh():
        wanted = load_use_case(config_of(use_case), overrides(tuple(lines(settings))))
        limit, drift = number(bound or str(DRIFT_BOUND)), number(drift_text)
        answer = Due(True, "it was asked for") if force else due(wanted, drift, DRIFT_BOUND if limit is None else limit)
    outputs({"train": str(answer.train).lower()})
    summary(f"### {'Training' if answer.train else 'No training'} of {code(use_case)}\n\n{code(answer.why, 300)}")
    show(answer.why, False)


@github.command(epilog="assay github bundle demo@3")
@click.argument("model")
def bundle(model: str) -> None:
    """Fetch the bundle of MODEL, checked; outputs: its folder, for an image to be built from, and its digest."""
    from assay.github.runner import outputs
    from assay.github.running import near
    from assay.release.promotion import fetch

    version, found = fetch(model)
    folder = near(found.folder)  # an image is built from what is below this folder
    outputs({"bundle": folder, "digest": version.digest})
    show(f"{version}: {folder}", False)


@github.command(epilog="assay github collect demo --to report")
@click.argument("use_case")
@click.option(
    "--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write report.json into."
)
def collect(use_case: str, folder: Path) -> None:
    """Write down what the newest version of USE_CASE is like, for the comment on a pull request."""
    from assay.github.collect import collect as collected
    from assay.github.report import NAME, write

    show(str(write(collected(use_case), folder, NAME)), False)


@github.command(epilog="assay github images serving=assay --to report")
@click.argument("images", nargs=-1, required=True, metavar="NAME=IMAGE…")
@click.option(
    "--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write images.json into."
)
@click.option("--engine", default="docker", show_default=True, type=click.Choice(["docker", "podman"]))
def images(images: tuple[str, ...], folder: Path, engine: str) -> None:
    """Write down how large IMAGES on this machine are, for the comment on a pull request."""
    from assay.github.collect import image_sizes
    from assay.github.report import IMAGES, write

    named = dict(image.split("=", 1) for image in images if "=" in image)
    show(str(write(image_sizes(named, engine), folder, IMAGES)), False)


@github.command(epilog="assay github answers http://127.0.0.1:3000 --bundle .assay/bundles/…")
@click.argument("url")
@click.option("--bundle", "folder", required=True, type=click.Path(path_type=Path), help="What must be served there.")
def answers(url: str, folder: Path) -> None:
    """Wait until the service at URL is ready, and hold its answers to the golden images against those of a bundle."""
    from assay.github.releasing import answers_rightly
    from assay.models.bundle import Bundle

    show(answers_rightly(url, Bundle.load(folder)), False)


@github.command(epilog="assay github page --from artifacts")
@click.option("--from", "folder", required=True, type=click.Path(path_type=Path), help="With head/, base/ and images/.")
def page(folder: Path) -> None:
    """Put what a pull request does to the model on the page of the run."""
    from assay.github.releasing import page_of
    from assay.github.runner import summary

    summary(page_of(folder, {}))


@github.command(epilog="assay github comment --from artifacts")
@click.option("--from", "folder", required=True, type=click.Path(path_type=Path), help="With head/, base/ and images/.")
def comment(folder: Path) -> None:
    """Put what a pull request does to the model into a comment on it, in place of the one before.

    For a run of report.yml: which pull request it is and how long the jobs took is asked of GitHub. What is in the
    folder was made by the pull request's own code, and is not believed.
    """
    from assay.github.api import Api
    from assay.github.releasing import page_of
    from assay.github.runner import summary

    api = Api.open()
    run = _event()["workflow_run"]
    markdown = page_of(folder, api.seconds(int(run["id"])))
    summary(markdown)
    number = api.pull_request_of(run)
    if number is None:
        show("no open pull request has this commit as its newest", False)
        return
    api.comment(number, markdown)
    show(f"commented on #{number}", False)


@github.command(epilog="assay github token --audience sts.amazonaws.com --to /run/token")
@click.option("--audience", required=True, help="For whom it is.")
@click.option("--as", "form", default="text", type=click.Choice(["text", "kubernetes"]), help="How it is printed.")
@click.option("--to", "path", type=click.Path(path_type=Path), help="A file for it, instead of printing it.")
def token(audience: str, form: str, path: Path | None) -> None:
    """Get this job's identity from GitHub (OIDC), which holds for minutes."""
    from assay.github import identity

    if path:
        identity.write_token(audience, path)
    else:
        show(identity.credential(audience) if form == "kubernetes" else identity.token(audience), False)


@github.command(epilog="assay github kubeconfig --server https://cluster.example --audience assay --to /run/kubeconfig")
@click.option("--server", required=True, help="Address of the cluster's API.")
@click.option("--authority", default="", help="The cluster's certificates: PEM, in base 64.")
@click.option("--audience", default="kubernetes", show_default=True, help="That the cluster takes.")
@click.option("--to", "path", required=True, type=click.Path(path_type=Path), help="File to write.")
def kubeconfig(server: str, authority: str, audience: str, path: Path) -> None:
    """Write a configuration by which kubectl and `assay promote` use this job's identity; it holds no secret."""
    from assay.github import identity

    path.write_text(identity.kubeconfig(server, authority, audience or "kubernetes"), encoding="utf-8")


@click.command(cls=Examples, epilog="assay notify failure --use-case demo --reason 'no images'")
@click.argument("what", type=click.Choice(list(get_args(What))))
@click.option("--use-case", required=True)
@click.option("--version", default="")
@click.option("--verdict", default="")
@click.option("--environment", default="")
@click.option("--reason", default="", help="Why, or what went wrong.")
@click.option("--link", default="", help="Where to look; by default the run of the workflow.")
def notify(**known: Any) -> None:
    """Tell the webhook of $ASSAY_WEBHOOK_URL what happened.

    The exit code is 0 whatever becomes of the message.
    """
    from assay.notify import notify as send

    send(News(**known))


@click.command(name="github", cls=Examples, epilog="assay doctor github\nassay doctor github --repository me/assay")
@click.option("--repository", default="", help="owner/name; by default the remote `origin`.")
@json_option
def doctor_github(repository: str, as_json: bool) -> int:
    """Check what can be seen of a repository's settings: branch rules, environments, variables, secrets.

    The token is $GITHUB_TOKEN's; the exit code is 1 if there is any fault.
    """
    from assay.github.api import Api
    from assay.github.doctor import examine, origin

    findings = examine(Api.open(repository or os.environ.get("GITHUB_REPOSITORY") or origin()))
    text = "\n".join(str(finding) for finding in findings)
    show({"findings": [vars(finding) for finding in findings]} if as_json else text, as_json)
    return 1 if any(finding.state == "fault" for finding in findings) else 0


def _event() -> dict[str, Any]:
    """What GitHub says about why this run is.

    Raises:
        AssayError: this is no run of a workflow.
    """
    path = os.environ.get("GITHUB_EVENT_PATH", "")
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        raise DataError("GITHUB_EVENT_PATH names no event; this is for workflows") from None
    if "workflow_run" not in found:
        raise AssayError("the event is no workflow_run; this is for report.yml")
    return dict(found)
