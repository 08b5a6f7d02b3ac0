"""The state of a training after an epoch, in a folder: written whole or not at all, and never as a pickle.

`checkpoint.safetensors` holds the tensors that training goes on with, and in its header, as JSON, everything else.
`best-NNNN.safetensors` holds the best weights so far; the checkpoint says which and with what digest. Random
generators are not stored: each epoch starts from seeds of its own.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from assay import digests
from assay.errors import AssayError

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found: tensors on the CPU, and the rest as JSON has it."""

    tensors: Tensors
    facts: dict[str, Any]


def save(folder: Path, key: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder`.

    Args:
        folder: exists.
        key: digest of everything that must be the same for training to go on from it.
        tensors: on any device, in any memory format.
        facts: JSON.

    Raises:
        AssayError: it cannot be written; the one before is still there.
    """
    header = json.dumps({"key": key, "facts": facts}, sort_keys=True, allow_nan=False)
    _write(folder / CHECKPOINT, tensors, {"assay": header})


def load(folder: Path, key: str) -> Checkpoint | None:
    """The checkpoint in `folder`; None if there is none, it is damaged, or it was made under another key."""
    path = folder / CHECKPOINT
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["assay"])
            if header["key"] != key:
                return None
            facts = header["facts"]
            # The best weights go out in the end: they must be the ones that were written.
            if digests.of_file(folder / facts["best"]["file"]) != facts["best"]["digest"]:
                return None
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None


def save_best(folder: Path, epoch: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Write the weights of `epoch` beside those that a checkpoint may still speak of; their file and digest.

    Raises:
        AssayError: they cannot be written.
    """
    path = folder / f"best-{epoch:04d}.safetensors"
    _write(path, tensors)
    return {"file": path.name, "digest": digests.of_file(path)}


def publish(folder: Path, best: str) -> str:
    """Copy the best weights to `weights.safetensors` and return their digest; the checkpoint stays valid."""
    target = folder / WEIGHTS
    partial = _partial(target)
    try:
        shutil.copyfile(folder / best, partial)
        partial.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        partial.unlink(missing_ok=True)
    return digests.of_file(target)


def clear(folder: Path, keep: str | None = None) -> None:
    """Remove what only a training under way needs: the checkpoint, and all best weights but `keep`.

    With `keep`, the checkpoint stays.
    """
    if keep is None:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    for path in (*folder.glob("best-*.safetensors"), *folder.glob(".*.partial")):
        if path.name != keep:
            path.unlink(missing_ok=True)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    partial = _partial(path)
    # Copied: safetensors wants each tensor contiguous and with memory of its own.
    whole = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    try:
        safetensors.torch.save_file(whole, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unwritable(path, error) from None
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _unwritable(path: Path, error: Exception) -> AssayError:
    return AssayError(f"{path}: cannot be written ({error}); make room and run it again, it goes on where it was")
