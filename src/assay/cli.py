"""`assay`, the command line: thin over the library.

Results go to standard output, all else to standard error. Exit codes: 0 good (of `train`: PROMOTE), 1 a defect,
2 wrong input, 3 the data does not meet its expectations, 10 HOLD, 11 REFUSE, 12 INSUFFICIENT_DATA, 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

import assay
from assay.config import UseCase, load_use_case
from assay.errors import EXIT_EXPECTATIONS, AssayError, ConfigError
from assay.home import subfolder, use_local_environment

if TYPE_CHECKING:
    from assay.models.bundle import Bundle

Command = Callable[..., Any]


class Examples(click.Command):
    """A command whose help ends with examples, printed as they stand."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples without re-wrapping them."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class Group(click.Group):
    """A group of commands with examples."""

    command_class = Examples


def json_option(command: Command) -> Command:
    """`--json`: one object on standard output instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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

    The exit code tells the verdict: 0 PROMOTE, 10 HOLD, 11 REFUSE, 12 INSUFFICIENT_DATA.
    """
    overrides = _overrides(settings)
    load_use_case(config, overrides)  # a wrong config is told before anything heavy is imported
    from assay.summary import training_json, training_text

    os.environ.setdefault("ZENML_LOGGING_VERBOSITY", "CRITICAL")  # a step says itself what it does
    from pipelines.run import run_training

    run = run_training(config, overrides, bootstrap, cache)
    _print(training_json(run) if as_json else training_text(run), as_json)
    return run.verdict.exit_code


@cli.command(
    epilog="""
    assay evaluate demo@challenger --data 'synthetic://concrete?count=500&seed=99'
    assay evaluate surface_crack@3 --data /data/new_site --json
"""
)
@click.argument("model")
@click.option("--data", "source", required=True, help="Source of labelled images, as in `data.source` of a use case.")
@json_option
def evaluate(model: str, source: str, as_json: bool) -> None:
    """Measure a registered MODEL on other images.

    MODEL is name@alias or name@version; the images are labelled, as for training.
    """
    from assay.evaluation.fresh import evaluate_source
    from assay.summary import metrics_text

    metrics = evaluate_source(_bundle(model), source)
    _print(
        {"model": model, "data": source, **metrics.model_dump(mode="json")} if as_json else metrics_text(metrics),
        as_json,
    )


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
        _print({"digest": predictor.bundle.digest, "predictions": rows}, as_json)
    else:
        _print("\n".join(prediction_text(row) for row in rows), as_json)
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
    _print(checkup.as_json() if as_json else checkup_text(checkup), as_json)
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

    _print("\n".join(str(path) for path in copy_sample(source, folder, count)), False)


@cli.command(epilog="assay doctor --json")
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine and its installation.

    Each fault comes with its remedy; the exit code is 1 if there is any.
    """
    from assay.doctor import examine

    findings = examine()
    if as_json:
        _print({"findings": [vars(finding) for finding in findings]}, as_json)
    else:
        _print("\n".join(str(finding) for finding in findings), as_json)
    return 1 if any(finding.state == "fault" for finding in findings) else 0


@cli.command(epilog="assay models\nassay models demo --json")
@click.argument("name", required=False)
@json_option
def models(name: str | None, as_json: bool) -> None:
    """List registered versions with their verdicts."""
    from assay import registry
    from assay.summary import versions_text

    versions = registry.versions(name)
    rows = [vars(version) for version in versions]
    _print({"versions": rows} if as_json else versions_text(versions), as_json)


@cli.command(epilog="assay ui")
@click.option("--port", default=5000, show_default=True, help="Port of MLflow's page; ZenML's is the next.")
def ui(port: int) -> None:
    """Serve MLflow's and ZenML's pages until Ctrl-C."""
    from assay.pages import serve_pages

    serve_pages(port)


def main() -> None:
    """Run the command line; a user's error is one line, an interrupt is quiet."""
    use_local_environment()
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
        what = " ".join(str(error).split())[:200]
        code = _fail(f"a defect of Assay: {type(error).__name__}: {what}; please report {_traceback_file()}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _traceback_file() -> Path:
    import traceback

    path = subfolder("logs") / "defect.txt"
    path.write_text(traceback.format_exc(), encoding="utf-8")
    return path


def _fail(message: str, code: int) -> int:
    click.echo(f"assay: {message}", err=True)
    return code


def _print(result: str | Mapping[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(result, ensure_ascii=False, default=str) if as_json else result)


def _overrides(settings: tuple[str, ...]) -> dict[str, Any]:
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {setting}: give KEY=VALUE, such as recipe.epochs=2")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {setting}: the value is not YAML") from None
    return pairs


def _as_use_case(source: str, image_size: int | None) -> UseCase:
    """A use case's YAML, or a bare source with the defaults of everything else."""
    if source.endswith((".yaml", ".yml")):
        return load_use_case(Path(source), {"data.image_size": image_size} if image_size else None)
    data = {"source": source} | ({"image_size": image_size} if image_size else {})
    return UseCase.model_validate({"name": "check", "data": data, "recipe": {"backbone": "none"}})


def _bundle(reference: str) -> "Bundle":
    from assay import registry

    return registry.fetch(registry.find(reference))
