"""`assay`, the command line: thin over the library.

Results go to standard output, all else to standard error. Exit codes: 0 good (of `train`: PROMOTE), 1 a defect,
2 wrong input, 3 the data does not meet its expectations, 4 a release failed and what was served before still is,
5 somebody else is at work, 6 a release failed and the way back too, 10 HOLD, 11 REFUSE, 12 INSUFFICIENT_DATA,
130 interrupted.
"""

import errno
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

import assay
from assay.config import UseCase, load_use_case
from assay.console import waiting
from assay.errors import EXIT_EXPECTATIONS, EXIT_USER, AssayError
from assay.github_commands import doctor_github, github, notify
from assay.home import subfolder, use_local_environment
from assay.options import FiniteRange, Group, Root, WithDefault, json_option, overrides, show
from assay.release.commands import history, promote, rollback, status, stop

if TYPE_CHECKING:
    from assay.models.bundle import Bundle


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(assay.__version__, prog_name="assay")
def cli() -> None:
    """Labelled images in; a judged, registered model out."""


@cli.command(
    epilog="""
    assay train configs/demo.yaml
    assay train configs/surface_crack.yaml --set data.source=/data/cracks.zip --bootstrap
    assay train configs/demo.yaml --set recipe.epochs=2 --json
"""
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value of the use case.")
@click.option("--bootstrap/--no-bootstrap", default=None, help="The first model may pass without a champion.")
@click.option(
    "--cache/--no-cache", default=True, help="Whether steps whose code and inputs are the same may be skipped."
)
@json_option
def train(config: Path, settings: tuple[str, ...], bootstrap: bool | None, cache: bool, as_json: bool) -> int:
    """Train, judge and register the use case CONFIG.

    The exit code tells the verdict: 0 PROMOTE, 10 HOLD, 11 REFUSE, 12 INSUFFICIENT_DATA; 0 also for a run that goes on
    elsewhere, if the stack does not wait.
    """
    changes = overrides(settings)
    load_use_case(config, changes)  # a wrong config is told before anything heavy is imported
    from assay.summary import Submitted, training_json, training_text

    os.environ.setdefault("ZENML_LOGGING_VERBOSITY", "CRITICAL")  # a step says itself what it does
    with waiting("start", "MLflow and ZenML"):
        from pipelines.run import run_training

    run = run_training(config, changes, bootstrap, cache)
    show(training_json(run) if as_json else training_text(run), as_json)
    return 0 if isinstance(run, Submitted) else run.verdict.exit_code


@cli.command(
    epilog="""
    assay evaluate demo@challenger --data 'synthetic://concrete?count=500&seed=99'
    assay evaluate surface_crack@3 --data /data/new_site --json
    assay evaluate surface_crack@3 --data /data/new_site --policy configs/surface_crack.yaml
"""
)
@click.argument("model")
@click.option("--data", "source", required=True, help="Source of labelled images, as in `data.source` of a use case.")
@click.option("--policy", "config", type=click.Path(path_type=Path), help="Judge by the policy of this use case, too.")
@json_option
def evaluate(model: str, source: str, config: Path | None, as_json: bool) -> int:
    """Measure a registered MODEL on other images, and judge it if a policy is given.

    MODEL is name@alias or name@version; the images are labelled, as for training. With --policy, the exit code tells
    the verdict.
    """
    if config:
        return _judge(model, config, None, source, False, None, as_json)
    from assay.evaluation.fresh import evaluate_source
    from assay.summary import metrics_text

    metrics = evaluate_source(_bundle(model), source)
    show(
        {"model": model, "data": source, **metrics.model_dump(mode="json")} if as_json else metrics_text(metrics),
        as_json,
    )
    return 0


@cli.group(
    cls=WithDefault,
    epilog="assay gate demo@challenger\nassay gate demo@3 --champion demo@2\nassay gate explain demo@3",
)
def gate() -> None:
    """Judge a candidate, and explain verdicts: `assay gate CANDIDATE`."""


@gate.command(
    name="judge",
    epilog="""
    assay gate demo@challenger
    assay gate demo@3 --champion demo@2 --policy configs/demo.yaml
    assay gate demo@3 --data /data/new_site --markdown verdict.md
    assay gate .assay/evidence/demo --policy stricter.yaml --json
""",
)
@click.argument("candidate")
@click.option("--champion", help="What to compare with, or `none`; by default the champion by the ledger.")
@click.option(
    "--policy",
    "config",
    type=click.Path(path_type=Path),
    help="A use case's YAML; by default the one that was last trained by this name, or configs/NAME.yaml.",
)
@click.option("--data", "source", help="Labelled images to judge on instead of the use case's test split.")
@click.option("--bootstrap", is_flag=True, help="The first model may pass without a champion.")
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="Write the verdict as Markdown, too.")
@json_option
def judge(
    candidate: str,
    champion: str | None,
    config: Path | None,
    source: str | None,
    bootstrap: bool,
    page: Path | None,
    as_json: bool,
) -> int:
    """Judge CANDIDATE: name@version, name@alias, or the folder of a bundle or of evidence.

    The look at the test set is counted in the ledger. The exit code tells the verdict: 0 PROMOTE, 10 HOLD, 11 REFUSE,
    12 INSUFFICIENT_DATA.
    """
    from assay.assessment import config_of

    config = config or config_of(candidate)
    return _judge(candidate, config, champion, source, bootstrap, page, as_json)


@gate.command(
    epilog="""
    assay gate explain demo@3
    assay gate explain .assay/evidence/demo/verdict.json --as pull-request
"""
)
@click.argument("verdict")
@click.option(
    "--as",
    "form",
    type=click.Choice(["text", "markdown", "pull-request"]),
    default="text",
    show_default=True,
    help="For a pull request: pass or fail alone, without a number of the test split.",
)
def explain(verdict: str, form: str) -> None:
    """Say what a VERDICT means, rule by rule: a verdict.json, or a registered name@version."""
    from assay.assessment import verdict_of
    from assay.gate import telling

    tell = {"text": telling.explain, "markdown": telling.markdown, "pull-request": telling.pull_request}[form]
    show(tell(verdict_of(verdict)), False)


@gate.command(
    epilog="""
    assay gate power configs/demo.yaml
    assay gate power configs/demo.yaml --images 2000 --discordance 0.02
"""
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(1, 10_000_000), help="Test images; by default several numbers are tried.")
@click.option(
    "--discordance", default=0.03, show_default=True, type=FiniteRange(0, 1), help="Share of the test images "
    "that only one of candidate and champion gets right.",
)  # fmt: skip
@click.option("--look", default=1, show_default=True, type=click.IntRange(1, 1000), help="Which look at the test set.")
@json_option
def power(config: Path, images: int | None, discordance: float, look: int, as_json: bool) -> None:
    """Say what a test set of a size can show by the policy of CONFIG, and how many images would be enough."""
    from assay.gate.planning import plan, plan_text

    planned = plan(load_use_case(config).policy, images, discordance, look)
    show(planned if as_json else plan_text(planned), as_json)


@cli.command(
    epilog="""
    assay serve demo@challenger
    assay serve demo@3 --port 8080
    assay serve path/to/bundle
"""
)
@click.argument("model")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port on 127.0.0.1.")
def serve(model: str, port: int) -> None:
    """Serve MODEL over HTTP until Ctrl-C: name@alias, name@version, or a bundle's folder.

    The limits are environment variables, ASSAY_SERVE_…: see serving/README.md.
    """
    from assay.service import serve_model

    serve_model(model, port)


@cli.command(
    epilog="""
    assay rehearse demo@challenger
    assay rehearse demo@3 --images 100 --json
"""
)
@click.argument("model")
@click.option("--policy", "config", type=click.Path(path_type=Path), help="The use case's YAML, as for `assay gate`.")
@click.option("--images", type=click.IntRange(1), help="Send so many of the test images; by default all.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 256), help="Requests at a time.")
@json_option
def rehearse(model: str, config: Path | None, images: int | None, concurrency: int, as_json: bool) -> int:
    """Start the real service with MODEL, send it the test split over HTTP, and compare the answers.

    The exit code is 2 unless every answer is the one that the model gives in this process.
    """
    from assay.assessment import bundle_of, config_of, test_split, version_of
    from assay.rehearsal import rehearsal_text, rehearse

    use_case = load_use_case(config or config_of(model))
    bundle = bundle_of(model)
    result = rehearse(bundle, version_of(model), test_split(use_case, bundle), images, concurrency)
    show(result.as_json() if as_json else rehearsal_text(result), as_json)
    return 0 if result.passed else AssayError.exit_code


@cli.group(cls=Group)
def ledger() -> None:
    """Read and verify what was asked, judged and promoted."""


@ledger.command(name="list", epilog="assay ledger list demo\nassay ledger list demo --json")
@click.argument("name")
@json_option
def ledger_list(name: str, as_json: bool) -> None:
    """List the entries of a use case, oldest first."""
    from assay.gate.ledger import Ledger, listing

    entries = Ledger.open(name).entries()
    rows = [entry.model_dump(mode="json") for entry in entries]
    show({"entries": rows} if as_json else "\n".join(listing(entries)) or "the ledger is empty", as_json)


@ledger.command(name="verify", epilog="assay ledger verify demo\nassay ledger verify demo --repair")
@click.argument("name")
@click.option("--repair", is_flag=True, help="Let the alias `champion` follow the ledger.")
@json_option
def ledger_verify(name: str, repair: bool, as_json: bool) -> int:
    """Check the whole chain, and that the registry's alias `champion` is the ledger's.

    The exit code is 2 if anything is wrong. The ledger itself is never changed.
    """
    from assay.crown import verify

    problems = verify(name, repair)
    show({"problems": problems} if as_json else "\n".join(problems) or "the ledger holds", as_json)
    return AssayError.exit_code if problems else 0


@ledger.command(name="promote", epilog="assay ledger promote demo@3")
@click.argument("model")
@json_option
def ledger_promote(model: str, as_json: bool) -> None:
    """Make MODEL the champion that the next candidates are compared with; nothing is deployed.

    The ledger must hold a PROMOTE for its bundle, against the present champion.
    """
    from assay import registry
    from assay.crown import crown

    entry = crown(registry.find(model))
    show(entry.model_dump(mode="json") if as_json else entry.sentence, as_json)


@cli.command(
    epilog="""
    assay predict wall.jpg --model demo@challenger
    assay predict photos/*.jpg --bundle path/to/bundle --json
"""
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", help="A registered model, as name@alias or name@version.")
@click.option("--bundle", "folder", type=click.Path(path_type=Path), help="A bundle's folder.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many classes to show.")
@json_option
def predict(images: tuple[Path, ...], model: str | None, folder: Path | None, top: int, as_json: bool) -> int:
    """Classify IMAGES with a bundle.

    Needs no torch. The exit code is 2 if any image cannot be read; the others are classified all the same.
    """
    from assay.models.bundle import Bundle
    from assay.models.predictor import Predictor
    from assay.summary import classify, prediction_text

    if (model is None) == (folder is None):
        raise AssayError("predict: give either --model name@alias or --bundle FOLDER")
    predictor = Predictor(_bundle(model) if model else Bundle.load(folder or Path()))
    rows = [classify(predictor, path, top) for path in images]
    if as_json:
        show({"digest": predictor.bundle.digest, "predictions": rows}, as_json)
    else:
        show("\n".join(prediction_text(row) for row in rows), as_json)
    return AssayError.exit_code if any("error" in row for row in rows) else 0


@cli.group(cls=Group)
def data() -> None:
    """Look at labelled images before anything is trained on them."""


@data.command(
    name="check",
    epilog="""
    assay data check configs/surface_crack.yaml
    assay data check /data/cracks --image-size 128
    assay data check 'synthetic://concrete?count=500&seed=1' --json
""",
)
@click.argument("source")
@click.option("--image-size", type=click.IntRange(16, 2048), help="Side in pixels at which the images are stored.")
@json_option
def check(source: str, image_size: int | None, as_json: bool) -> int:
    """Scan, validate and split SOURCE, as training would.

    SOURCE is a folder, an archive, a list, a URI, or a use case's YAML. Nothing is trained, no original is touched.
    """
    from assay.data.checkup import check_source
    from assay.summary import checkup_text

    checkup = check_source(_as_use_case(source, image_size))
    show(checkup.as_json() if as_json else checkup_text(checkup), as_json)
    return 0 if checkup.passed else EXIT_EXPECTATIONS


@data.command(
    epilog="""
    assay data sample 'synthetic://concrete?count=100&seed=1' --to .assay/sample --count 4
"""
)
@click.argument("source")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder to write into.")
@click.option("--count", default=8, show_default=True, type=click.IntRange(1), help="How many images.")
def sample(source: str, folder: Path, count: int) -> None:
    """Copy the first images of SOURCE to look at them."""
    from assay.data.checkup import copy_sample

    show("\n".join(str(path) for path in copy_sample(source, folder, count)), False)


@cli.group(cls=Group, invoke_without_command=True, epilog="assay doctor\nassay doctor --json\nassay doctor github")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> int:
    """Check this machine and its installation, or what else is named.

    Each fault comes with its remedy; the exit code is 1 if there is any.
    """
    if context.invoked_subcommand:
        return 0
    from assay.doctor import examine

    findings = examine()
    if as_json:
        show({"findings": [vars(finding) for finding in findings]}, as_json)
    else:
        show("\n".join(str(finding) for finding in findings), as_json)
    return 1 if any(finding.state == "fault" for finding in findings) else 0


doctor.add_command(doctor_github)


@cli.command(epilog="assay models\nassay models demo --json")
@click.argument("name", required=False)
@json_option
def models(name: str | None, as_json: bool) -> None:
    """List registered versions with their verdicts."""
    from assay import registry
    from assay.summary import versions_text

    versions = registry.versions(name)
    if name and not versions:
        registry.find(name)  # says which there are
    rows = [vars(version) for version in versions]
    show({"versions": rows} if as_json else versions_text(versions), as_json)


@cli.command(epilog="assay ui")
@click.option(
    "--port",
    default=5000,
    show_default=True,
    type=click.IntRange(1, 65534),
    help="Port of MLflow's page; ZenML's is the next.",
)
def ui(port: int) -> None:
    """Serve MLflow's and ZenML's pages until Ctrl-C."""
    from assay.pages import serve_pages

    serve_pages(port)


for command in (promote, rollback, status, history, stop, github, notify):
    cli.add_command(command)


def main() -> None:
    """Run the command line; a user's error is one line, an interrupt is quiet."""
    use_local_environment()
    # To be told to end is an interrupt, from whoever it comes: what was started is ended, what is finished is kept.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = _fail("interrupted; what was finished is kept, run the same command to go on", 130)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except AssayError as error:
        code = _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _fail("interrupted; what was finished is kept, run the same command to go on", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            sys.exit(_fail(f"{error.filename or 'standard output'}: {error.strerror}; make room there", EXIT_USER))
        what = " ".join(str(error).split())[:200]
        code = _fail(f"a defect of Assay: {type(error).__name__}: {what}; please report {_traceback_file()}", 1)
    sys.exit(code if isinstance(code, int) else 0)


FULL = {errno.ENOSPC, errno.EDQUOT}


def _traceback_file() -> Path:
    import traceback

    told = traceback.format_exc()
    try:
        path = subfolder("logs") / "defect.txt"
        path.write_text(told, encoding="utf-8")
    except (AssayError, OSError):
        path = Path(tempfile.mkstemp(prefix="assay-defect-")[1])
        path.write_text(told, encoding="utf-8")
    return path


def _fail(message: str, code: int) -> int:
    click.echo(f"assay: {message}", err=True)
    return code


def _as_use_case(source: str, image_size: int | None) -> UseCase:
    """A use case's YAML, or a bare source with the defaults of everything else."""
    if source.endswith((".yaml", ".yml")):
        return load_use_case(Path(source), {"data.image_size": image_size} if image_size else None)
    data = {"source": source} | ({"image_size": image_size} if image_size else {})
    return UseCase.model_validate({"name": "check", "data": data, "recipe": {"backbone": "none"}})


def _judge(
    candidate: str,
    config: Path,
    champion: str | None,
    source: str | None,
    bootstrap: bool,
    page: Path | None,
    as_json: bool,
) -> int:
    use_case = load_use_case(config)
    from assay.assessment import assess
    from assay.gate.telling import markdown
    from assay.summary import assessment_json, assessment_text

    if page and not os.access(page.parent, os.W_OK):  # before the look at the test set is spent
        raise AssayError(f"--markdown {page}: {page.parent} is no folder in which can be written")
    assessment = assess(candidate, use_case, champion, source, bootstrap)
    show(assessment_json(assessment) if as_json else assessment_text(assessment), as_json)
    if page:
        try:
            page.write_text(markdown(assessment.verdict), encoding="utf-8")
        except OSError as error:
            raise AssayError(f"--markdown {page}: {error.strerror}; assay gate explain … --as markdown") from None
    return assessment.verdict.exit_code


def _bundle(reference: str) -> "Bundle":
    from assay import registry

    return registry.fetch(registry.find(reference))
