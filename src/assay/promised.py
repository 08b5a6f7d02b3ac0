"""Whether a step got the machine that its config asked for, looked at before it works for hours on another.

The orchestrators of `stacks/` say in the environment of a step's pod what the config promises; elsewhere nothing is
promised, and nothing looked at.
"""

import os
from pathlib import Path

from assay.errors import AssayError

GPUS = "ASSAY_PROMISED_GPUS"
"""How many CUDA devices there must be."""
SHM = "ASSAY_PROMISED_SHM"
"""How many bytes /dev/shm must hold."""
_SHM = Path("/dev/shm")  # noqa: S108 - the place that libraries look for


class PromiseBroken(AssayError):
    """The machine is not the one that the config asked for."""


def require() -> None:
    """Return if all that was promised is there.

    Raises:
        PromiseBroken: a GPU or shared memory is missing; the message names the setting that asked for it.
    """
    if missing := [told for told in (_gpus(_asked(GPUS)), _shm(_asked(SHM))) if told]:
        raise PromiseBroken("; ".join(missing))


def _asked(name: str) -> int:
    value = os.environ.get(name, "0")
    if not value.isascii() or not value.isdigit():
        raise PromiseBroken(f"{name}={value}: no number; it is set by the orchestrator, and by nobody else")
    return int(value)


def _gpus(asked: int) -> str:
    if not asked:
        return ""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found >= asked:
        return ""
    return (
        f"settings.orchestrator.gpu_count asks for {asked}, and torch sees {found}: "
        "is the image the one with CUDA, and does the node have a driver for it?"
    )


def _shm(asked: int) -> str:
    if not asked:
        return ""
    volume = os.statvfs(_SHM) if _SHM.is_dir() else None
    found = volume.f_blocks * volume.f_frsize if volume else 0
    if found >= asked:
        return ""
    return f"settings.orchestrator.shm asks for {asked:,} bytes, and {_SHM} has {found:,}: was the volume mounted?"
