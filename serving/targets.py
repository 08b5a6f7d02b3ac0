"""The target of a release by its kind; only what is used is loaded."""

from assay.gate.ledger import Environment
from assay.release.targets import Kind, ReleaseError, Target


def open_target(kind: Kind, model: str, environment: Environment) -> Target:
    """Where releases of a model run.

    Raises:
        ReleaseError: it does not answer, or what it takes to reach it is not installed.
    """
    if kind == "process":
        from assay.release.process import Process  # noqa: PLC0415

        return Process(model, environment)
    try:
        from serving.rollout import Cluster  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "kubernetes":
            raise
        raise ReleaseError(
            "a cluster needs the Python package `kubernetes`: uv sync --extra promote, or make setup"
        ) from None
    return Cluster.open(model, environment)
