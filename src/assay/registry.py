"""The one module that speaks to MLflow: runs, model versions and aliases.

Only `MlflowClient` is used, never MLflow's module-level state: two runs in one process do not meet.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from assay.errors import DISK_FULL, BundleError, RegistryError, without_password
from assay.home import home, subfolder
from assay.models.bundle import Bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from assay.evaluation.evidence import Champion
    from assay.gate import Verdict

CHAMPION = "champion"
CHALLENGER = "challenger"
RUN_KEY = "assay.run"
PATIENCE_S = 5
"""For an answer of MLflow to what can be done later."""
NOWHERE = "assay: an experiment that is not there"
DATABASES = ("postgresql", "mysql")
MENTIONED = 20
"""Models in a message that says which there are."""
BATCH = 500
"""Metrics or params in one request; MLflow takes at most 1,000 and 100 of them."""


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or the SQLite database of the local run."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def artifact_root() -> str | None:
    """Where a new experiment of the local database keeps its artifacts; a server decides for itself."""
    return subfolder("mlflow", "artifacts").as_uri() if tracking_uri().startswith("sqlite:") else None


P = ParamSpec("P")
R = TypeVar("R")


def _plainly(call: Callable[P, R]) -> Callable[P, R]:
    """Turn what MLflow raises into one line."""

    @wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except (_mlflow_error(), _database_error()) as error:
            raise RegistryError(f"{without_password(tracking_uri())}: {_reason(error)}") from None

    return wrapped


def _reason(error: Exception) -> str:
    text = str(error)
    if "Invalid Host header" in text:
        return "MLflow is not to answer by this name; its server has those it answers by in MLFLOW_SERVER_ALLOWED_HOSTS"
    if DISK_FULL in text:
        return "cannot be written, the disk is full: make room and run it again"
    reason = "cannot be reached" if "Max retries exceeded" in text else _first_line(error)
    if "too many 5" in text:
        reason = "answers with errors of its own"
    return f"{reason}; is MLFLOW_TRACKING_URI right?"


@dataclass(frozen=True)
class Run:
    """An MLflow run that metrics, parameters and artifacts are logged to."""

    id: str
    experiment_id: str

    @_plainly
    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log finite numbers; MLflow's databases refuse the others."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(k, float(v), now, step) for k, v in metrics.items() if v is not None and math.isfinite(v)]
        for start in range(0, len(rows), BATCH):
            _client().log_batch(self.id, metrics=rows[start : start + BATCH])

    @_plainly
    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, nested mappings as dotted names."""
        from mlflow.entities import Param

        rows = [Param(name, str(value)[:6000]) for name, value in _flat(values)]
        for start in range(0, len(rows), 100):
            _client().log_batch(self.id, params=rows[start : start + 100])

    @_plainly
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        for name, value in tags.items():
            _client().set_tag(self.id, name, value)

    @_plainly
    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store one file among the run's artifacts."""
        _client().log_artifact(self.id, str(path), folder)

    @_plainly
    def log_text(self, text: str, name: str) -> None:
        """Store a text, such as an HTML report, as the artifact `name`."""
        _client().log_text(self.id, text, name)

    @_plainly
    def finish(self, succeeded: bool = True) -> None:
        """Mark the run as over."""
        _client().set_terminated(self.id, "FINISHED" if succeeded else "FAILED")


@dataclass(frozen=True)
class Version:
    """A registered version of a model."""

    name: str
    version: str
    digest: str
    """Digest of its bundle."""
    verdict: str
    aliases: tuple[str, ...]
    run_id: str
    experiment_id: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@_plainly
def ask() -> None:
    """Ask an MLflow that is elsewhere once, before work is begun that it is to keep.

    Raises:
        RegistryError: it does not answer, or not as MLflow does.
    """
    if not tracking_uri().startswith("sqlite:"):
        _models(_client())


@_plainly
def open_run(use_case: str, key: str) -> Run:
    """The run of `use_case` that carries `key`: every step of one pipeline run logs to the same one."""
    client = _client()
    experiment = _experiment(client, use_case)
    found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
    run = found[0] if found else client.create_run(experiment, run_name=key, tags={RUN_KEY: key})
    return Run(run.info.run_id, experiment)


@_plainly
def close_failed(key: str) -> None:
    """Mark the run that carries `key` as failed, in whatever experiment it is, if it was begun."""
    client = _client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, f"tags.`{RUN_KEY}` = '{key}'", max_results=1):
        client.set_terminated(run.info.run_id, "FAILED")


@_plainly
def register(bundle: Bundle, name: str, run: Run, tags: Mapping[str, str]) -> Version:
    """Register a bundle as a new version of the model `name`; the same bundle and verdict give the version they have.

    The version is made when all the files are stored, so one that can be seen is whole.
    """
    client = _client()
    _ensure_model(client, name)
    tags = {"digest": bundle.digest, **tags}
    for version in _versions(client, name):
        if all(version.tags.get(key) == value for key, value in tags.items()):
            return _as_version(client, version)
    place = f"bundle-{bundle.digest[:12]}"
    client.log_artifacts(run.id, str(bundle.folder), place)
    source = f"{client.get_run(run.id).info.artifact_uri}/{place}"
    created = client.create_model_version(name, source, run.id, tags=dict(tags))
    return _as_version(client, created)


def register_candidate(bundle: Bundle, name: str, run: Run, verdict: "Verdict") -> Version:
    """Register a judged bundle; the alias `challenger` moves to it if, and only if, the verdict is PROMOTE."""
    tags = {
        "verdict": verdict.decision,
        "verdict_digest": verdict.digest,
        "git_commit": bundle.meta.lineage.git_commit,
        "data_digest": bundle.meta.lineage.data_digest,
        "config_digest": bundle.meta.lineage.config_digest,
    }
    version = register(bundle, name, run, tags)
    if verdict.decision == "PROMOTE":
        set_alias(version, CHALLENGER)
    return find(f"{name}@{version.version}")


@_plainly
def set_alias(version: Version, alias: str) -> None:
    """Point an alias at a version, and read it back: MLflow lets the last writer win."""
    client = _client()
    client.set_registered_model_alias(version.name, alias, version.version)
    now = str(client.get_model_version_by_alias(version.name, alias).version)
    if now != version.version:
        raise RegistryError(f"{version}: alias {alias!r} points at version {now}; somebody else set it: run again")


@_plainly
def find(reference: str) -> Version:
    """A version by `name@alias`, `name@version` or `name` (its challenger, else its latest version).

    Raises:
        RegistryError: there is no such model, version or alias; the message says what there is.
    """
    name, _, which = reference.partition("@")
    client = _client()
    versions = {str(v.version): v for v in _versions(client, name)}
    if not versions:
        place = without_password(tracking_uri())
        raise RegistryError(f"{reference}: no model {name!r} in {place}; known: {_known_models(client)}")
    aliases = _aliases(client, name)
    which = which or (CHALLENGER if CHALLENGER in aliases else max(versions, key=int))
    number = aliases.get(which, which)
    if number not in versions:
        known = ", ".join([*sorted(aliases), *sorted(versions, key=int)])
        raise RegistryError(f"{reference}: no version or alias {which!r}; {name} has {known}")
    return _as_version(client, versions[number])


@_plainly
def versions(name: str | None = None) -> list[Version]:
    """Every registered version, of one model or of all; newest first within a model."""
    client = _client()
    names = [name] if name else _models(client)
    return [_as_version(client, v) for n in names for v in sorted(_versions(client, n), key=_number, reverse=True)]


@_plainly
def aliases(name: str) -> dict[str, str]:
    """Alias to version of a model; none for a model that is not there."""
    return _aliases(_client(), name)


@_plainly
def delete_alias(name: str, alias: str) -> None:
    """Take an alias away."""
    _client().delete_registered_model_alias(name, alias)


def champion_bundle(name: str, number: str, crowned: str | None = None) -> "Champion":
    """The champion to compare with; one that is there and cannot be read is a fault for the gate, not an absence.

    Args:
        name: of the model.
        number: the champion's version.
        crowned: digest that its bundle must have, as the ledger says.
    """
    from assay.evaluation.evidence import Champion

    try:
        version = find(f"{name}@{number}")
        if crowned and version.digest != crowned:
            return Champion(number, None, f"its bundle is {version.digest[:12]}, and crowned was {crowned[:12]}")
        return Champion(number, fetch(version), None)
    except (BundleError, RegistryError) as error:
        return Champion(number, None, str(error))


class Absent(RegistryError):
    """The registry answers, and has no such thing."""


@_plainly
def text(version: Version, name: str) -> str:
    """A text among the artifacts of the run that a version was registered by.

    Raises:
        Absent: the run has none of that name.
        RegistryError: it cannot be read.
    """
    from mlflow.artifacts import load_text

    client = _client()
    place = f"{client.get_run(version.run_id).info.artifact_uri}/{name}"
    if name not in {file.path for file in client.list_artifacts(version.run_id)}:
        raise Absent(f"{version}: nothing at {place}")
    try:
        return str(load_text(place))
    except OSError as error:
        raise RegistryError(f"{version}: {place} cannot be read: {_first_line(error)}") from None


@contextmanager
def briefly() -> Iterator[None]:
    """Within the block the registry has seconds to answer, not MLflow's minutes: for what can be done later."""
    own = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE_S), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def fetch(version: Version) -> Bundle:
    """The version's bundle, from the local cache or the artifact store; its digest is verified either way.

    Raises:
        BundleError: what is stored is not the bundle that was registered.
        RegistryError: it cannot be fetched.
    """
    folder = home() / "bundles" / version.digest
    if folder.is_dir():
        try:
            return Bundle.load(folder, expected_digest=version.digest)
        except BundleError:
            _remove(folder)  # a damaged cache is fetched anew
    return Bundle.load(_download(version, folder), expected_digest=version.digest)


def _download(version: Version, folder: Path) -> Path:
    from tempfile import mkdtemp

    client = _client()
    source = client.get_model_version(version.name, version.version).source
    partial = Path(mkdtemp(prefix=".fetching-", dir=subfolder("bundles")))
    try:
        from mlflow.artifacts import download_artifacts

        download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=tracking_uri())
        found = next(partial.rglob("bundle.json")).parent
        found.rename(folder)
    except (StopIteration, OSError, _mlflow_error()) as error:
        raise RegistryError(f"{version}: its bundle cannot be fetched from {source}: {_first_line(error)}") from None
    finally:
        _remove(partial)
    return folder


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _client() -> "MlflowClient":
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else a new database's tables are told one by one
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # by default it is silent for minutes
    from mlflow import MlflowClient

    if tracking_uri().startswith("sqlite:"):
        subfolder("mlflow")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it tells of each try, with a traceback
    _answers(tracking_uri())
    return MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())


@cache
def _answers(uri: str) -> None:
    """Ask a database that is given directly once: MLflow repeats for a minute without a word."""
    if uri.startswith(DATABASES):
        from sqlalchemy import NullPool, create_engine

        try:
            create_engine(uri, poolclass=NullPool, connect_args={"connect_timeout": PATIENCE_S}).connect().close()
        except ImportError as error:
            raise RegistryError(
                f"{without_password(uri)}: the driver {error.name} is not installed; install it, or set "
                "MLFLOW_TRACKING_URI to an MLflow server"
            ) from None


def _mlflow_error() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException  # type: ignore[no-any-return]


def _database_error() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _experiment(client: "MlflowClient", name: str) -> str:
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifact_root()))
    except _mlflow_error() as error:
        if (found := client.get_experiment_by_name(name)) is None:
            raise error from None
        return str(found.experiment_id)  # another process made it first


def _ensure_model(client: "MlflowClient", name: str) -> None:
    try:
        client.create_registered_model(name)
    except _mlflow_error() as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: "MlflowClient", name: str) -> list["ModelVersion"]:
    if "'" in name:
        raise RegistryError(f"{name!r} is no name of a model")
    return list(client.search_model_versions(f"name='{name}'"))


def _number(version: "ModelVersion") -> int:
    return int(version.version)


def _aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    try:
        return {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except _mlflow_error() as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _known_models(client: "MlflowClient") -> str:
    names = _models(client)
    return (", ".join(names[:MENTIONED]) or "none") + (
        f" and {len(names) - MENTIONED} more" if names[MENTIONED:] else ""
    )


def _models(client: "MlflowClient") -> list[str]:
    """Names of all models. That there is none is believed only of what answers as MLflow does."""
    page = client.search_registered_models()
    names = [model.name for model in page]
    while page.token:
        page = client.search_registered_models(page_token=page.token)
        names += [model.name for model in page]
    if not names and client.get_experiment_by_name(NOWHERE):
        raise RegistryError(f"{without_password(tracking_uri())}: is no MLflow; is MLFLOW_TRACKING_URI right?")
    return sorted(names)


def _as_version(client: "MlflowClient", version: "ModelVersion") -> Version:
    aliases = sorted(
        alias for alias, number in _aliases(client, version.name).items() if number == str(version.version)
    )
    tags = version.tags
    experiment = client.get_run(version.run_id).info.experiment_id if version.run_id else ""
    return Version(
        version.name, str(version.version), tags.get("digest", ""), tags.get("verdict", ""), tuple(aliases),
        version.run_id or "", experiment,
    )  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return rows
