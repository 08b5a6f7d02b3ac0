"""`assay doctor`: what this machine has and lacks for Assay, each fault with its remedy."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from assay.home import home

EXTRAS = {
    "train": ("torch", "torchvision", "timm", "albumentations", "great-expectations", "onnx", "cleanlab", "pyarrow"),
    "pipelines": ("zenml", "mlflow"),
}
MIN_FREE_BYTES = 2 * 2**30
"""Below this a run of the demo may fill the disk."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["good", "warning", "fault"]
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.state:<8} {self.what:<11} {self.detail}{remedy}"


def examine() -> list[Finding]:
    """Look at everything; one look that fails is itself a finding."""
    looks: tuple[Callable[[], Finding], ...] = (
        _python, _packages, _torch, _cores, _state_folder, _disk, _git, _sqlite, _zenml, _mlflow, _kubectl,
    )  # fmt: skip
    return [_looked(look) for look in looks]


def _looked(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # a doctor that falls over helps nobody
        return Finding(look.__name__.lstrip("_"), "fault", f"{type(error).__name__}: {str(error).splitlines()[:1]}")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info < (3, 14)
    return Finding("python", "good" if good else "fault", found, "" if good else "use 3.11, 3.12 or 3.13")


def _packages() -> Finding:
    missing = [name for names in EXTRAS.values() for name in names if not _installed(name)]
    if missing:
        return Finding("packages", "fault", f"missing: {', '.join(missing)}", "make setup")
    return Finding("packages", "good", f"zenml {version('zenml')}, mlflow {version('mlflow')}, timm {version('timm')}")


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _torch() -> Finding:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # fails when the two were not resolved together
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return Finding("torch", "good", f"{torch.__version__} with torchvision {torchvision.__version__}, on {device}")


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    state: Literal["good", "warning"] = "good" if cores >= 2 else "warning"
    return Finding("cores", state, str(cores), "" if cores >= 2 else "training will be slow")


def _state_folder() -> Finding:
    home().mkdir(parents=True, exist_ok=True)
    if os.access(home(), os.W_OK):
        return Finding("state", "good", str(home()))
    return Finding("state", "fault", f"{home()} is not writable", "set ASSAY_HOME to a folder that is")


def _disk() -> Finding:
    free = shutil.disk_usage(home()).free
    enough = free >= MIN_FREE_BYTES
    remedy = "" if enough else "free some space, or set ASSAY_HOME to another disk"
    return Finding("disk", "good" if enough else "fault", f"{free / 2**30:.1f} GiB free", remedy)


def _git() -> Finding:
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return Finding("git", "warning", "no commit", "commit your checkout, so that bundles can name what made them")
    return Finding("git", "good", f"commit {commit.stdout.strip()}")


def _sqlite() -> Finding:
    return Finding("sqlite", "good", sqlite3.sqlite_version)


def _zenml() -> Finding:
    remote = os.environ.get("ZENML_STORE_URL")
    place = os.environ.get("ZENML_CONFIG_PATH", "the home directory")
    return Finding("zenml", "good", f"server {remote}" if remote else f"local, state in {place}")


def _mlflow() -> Finding:
    from assay.errors import RegistryError
    from assay.registry import tracking_uri, versions

    try:
        count = len(versions(None))
    except RegistryError as error:
        return Finding("mlflow", "fault", str(error))
    return Finding("mlflow", "good", f"{tracking_uri()}, {count} registered versions")


def _kubectl() -> Finding:
    found = shutil.which("kubectl")
    return Finding(
        "kubectl", "good" if found else "warning", found or "not on PATH",
        "" if found else "`assay promote --target kubernetes` puts manifests together with it (1.27 or newer)",
    )  # fmt: skip
