"""Where a model comes from: the commit, the data, the config and the packages."""

import os
import platform
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING

from assay import digests
from assay.config import UseCase
from assay.models.bundle import Lineage

if TYPE_CHECKING:
    from assay.data.dataset import Dataset

PACKAGES = ("albumentations", "numpy", "onnx", "onnxruntime", "pillow", "timm", "torch", "torchvision")
"""What the bytes of a bundle depend on."""


def collect(use_case: UseCase, dataset: "Dataset") -> Lineage:
    """The lineage of a model made now, here, from this use case and data set.

    The commit is that of the checkout which the working directory is in; outside of one it is `$ASSAY_COMMIT`, which an
    image sets, or `unknown`.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    return Lineage(
        git_commit=commit or os.environ.get("ASSAY_COMMIT") or "unknown",
        git_dirty=commit is not None and _git("status", "--porcelain") != "",
        data_digest=dataset.digest,
        split_digest=dataset.split_digest,
        config_digest=digests.of_json(use_case.making.model_dump(mode="json")),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    )


def _git(*arguments: str) -> str | None:
    """What git prints, stripped; None where there is no git, no checkout or no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
