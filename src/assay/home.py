"""Where a local run keeps its state: one folder, `.assay/`, and nothing else on the machine."""

import os
from pathlib import Path

from assay.errors import HomeError

QUIET = {
    # Nothing that runs here calls home: no usage statistics, no version checks.
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # ZenML asks uv for the installed packages; that needs no cache in the home directory.
    "UV_NO_CACHE": "1",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_AUTO_OPEN_DASHBOARD": "false",
    # No artifact of ours is a pickle, so none is ever unpickled.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def home() -> Path:
    """The state folder: `$ASSAY_HOME`, or `.assay` in the checkout that the working directory is in.

    Outside a checkout it is `.assay` in the working directory. The folder need not exist yet.
    """
    if configured := os.environ.get("ASSAY_HOME"):
        return Path(configured).absolute()
    return _checkout() / ".assay"


def subfolder(*names: str) -> Path:
    """A folder below `home()`, made if it is not there.

    Raises:
        HomeError: it cannot be made.
    """
    path = home().joinpath(*names)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(
            f"{path}: {error.strerror}; let ASSAY_HOME name a folder in which state can be written (it is {home()})"
        ) from None
    return path


def use_local_environment() -> None:
    """Let ZenML, MLflow and the rest keep their state in `home()` and stay quiet; what is set already stays.

    `make` has every Python of `.venv` call it at its start, so that plain `zenml` and `mlflow` commands see the same.
    """
    local = {
        **QUIET,
        "ZENML_CONFIG_PATH": str(home() / "zenml"),
        "ZENML_CUSTOM_SOURCE_ROOT": str(_checkout()),
        # What marks the checkout as ZenML's, in place of a `.zen` folder in it.
        "ZENML_REPOSITORY_DIRECTORY_NAME": home().name,
    }
    for name, value in local.items():
        os.environ.setdefault(name, value)


def _checkout() -> Path:
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()), here)
