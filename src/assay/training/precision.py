"""In which number format and memory layout a model is trained: as the recipe says, or as it is fastest here."""

import copy
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn.functional import cross_entropy

from assay import digests
from assay.config import Recipe
from assay.errors import AssayError
from assay.home import subfolder
from assay.training.feed import Batch

MARGIN = 1.2
"""A mode that is preferred is left only for one that is faster by more than this: timings are noisy, and the choice
decides the weights bit by bit."""
ROUNDS = 2
TRIAL_S = 1.5
"""Small models are measured in more rounds than these, for about as long as this."""
HOPELESS = 3.0
"""A mode slower than the fastest by this factor in the first round is not measured again."""
CPU_TRIAL_IMAGES = 16
ONEDNN_BLOCK = 16
"""Channels that oneDNN's kernels take at once."""

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Mode:
    """A number format and a memory layout."""

    precision: Precision
    channels_last: bool

    @property
    def layout(self) -> torch.memory_format:
        """The memory format of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """Within it, a model computes in this number format; its weights stay float32."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def __str__(self) -> str:
        return f"{self.precision} {'channels_last' if self.channels_last else 'contiguous'}"


class Normaliser:
    """Pixels to what a model takes: float32 [n, 3, s, s], (pixels / 255 - mean) / std, in the mode's layout."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], mode: Mode, device: torch.device) -> None:
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255
        self._mode, self._device = mode, device

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels`: uint8 [n, s, s, 3], on any device."""
        images = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float()
        return images.sub_(self._mean).div_(self._std).contiguous(memory_format=self._mode.layout)


def candidates(recipe: Recipe, model: torch.nn.Module) -> tuple[Mode, ...]:
    """The modes that the recipe leaves open for `model` on its device, the preferred one first.

    Raises:
        AssayError: the recipe wants bf16, and it is not to be had.
    """
    formats: tuple[Precision, ...] = ("bf16", "fp32") if recipe.precision == "auto" else (recipe.precision,)
    trouble = _bf16_trouble(model)
    if trouble and recipe.precision == "bf16":
        raise AssayError(f"recipe.precision: bf16 does not work here, {trouble}; set it to fp32 or auto")
    if trouble:
        formats = ("fp32",)
    layouts = (True, False) if recipe.channels_last == "auto" else (recipe.channels_last,)
    return tuple(Mode(precision, channels_last) for channels_last in layouts for precision in formats)


def _bf16_trouble(model: torch.nn.Module) -> str:
    """Why `model` must not be trained in bf16 on its device; "" if it may."""
    if next(model.parameters()).is_cuda:
        return "" if torch.cuda.is_bf16_supported() else "this GPU does not have it"
    # oneDNN 3.13 writes past the end of its buffers in the backward pass of such a layer (in the stems of RepVGG,
    # MobileOne and FastViT): the process dies, or goes on with whatever was overwritten.
    for name, layer in model.named_modules():
        strided = isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1
        if strided and layer.in_channels < ONEDNN_BLOCK:
            return f"on a CPU the strided 1x1 convolution {name} of {layer.in_channels} channels breaks it"
    return ""


def decide(seconds: Mapping[Mode, float]) -> Mode:
    """The first mode, in the order of `seconds`, that no other is faster than by more than `MARGIN`."""
    fastest = min(seconds.values())
    return next(mode for mode, took in seconds.items() if took <= MARGIN * fastest)


def choose(
    modes: Sequence[Mode],
    backbone: str,
    image_size: int,
    device: torch.device,
    measure: Callable[[], dict[Mode, float]],
) -> Mode:
    """Decide between `modes`, and remember it: a later training of this backbone and size here gets the same.

    Args:
        modes: candidates, the preferred one first.
        backbone: its name.
        image_size: in pixels.
        device: what it is trained on.
        measure: seconds of a training step in each mode; called if nothing is remembered.
    """
    if len(modes) == 1:
        return modes[0]
    situation = {
        "backbone": backbone,
        "image_size": image_size,
        "device": _device_name(device),
        "torch": str(torch.__version__),
        "modes": [str(mode) for mode in modes],
    }
    path = subfolder("precision") / f"{digests.of_json(situation)[:20]}.json"
    remembered = _read(path, situation, modes)
    if remembered is not None:
        return remembered
    seconds = measure()
    chosen = decide(seconds)
    _write(path, {"situation": situation, "seconds": {str(m): s for m, s in seconds.items()}, "chosen": asdict(chosen)})
    return chosen


def measure(
    model: torch.nn.Module, batch: Batch, modes: Sequence[Mode], normaliser: Callable[[Mode], Normaliser]
) -> dict[Mode, float]:
    """Seconds of a forward and backward pass in each mode, the least of a few, on a copy of the model.

    On a CPU they are seconds of one thread's computing, which others at work on the machine hardly change. The rounds
    go through all modes in turn, so that a busy moment does not fall on one of them alone.
    """
    device = next(model.parameters()).device
    pixels, targets = batch if device.type == "cuda" else (batch[0][:CPU_TRIAL_IMAGES], batch[1][:CPU_TRIAL_IMAGES])
    trial = copy.deepcopy(model).train()

    def once(mode: Mode) -> float:
        trial.to(memory_format=mode.layout)
        images, classes = normaliser(mode)(pixels), targets.to(device)
        trial.zero_grad()
        return _timed(lambda: _pass(trial, mode, images, classes), device)

    with _one_thread(device):
        once(modes[0])  # starts up what any mode needs
        first = {mode: once(mode) for mode in modes}  # compiles kernels, and so tells only what is hopeless
        left = [mode for mode in modes if first[mode] <= HOPELESS * min(first.values())]
        until, rounds = time.monotonic() + TRIAL_S, list[dict[Mode, float]]()
        while len(rounds) < ROUNDS or time.monotonic() < until:
            rounds.append({mode: once(mode) for mode in left})
    return {mode: min(timings[mode] for timings in rounds) for mode in left}


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pass(model: torch.nn.Module, mode: Mode, images: torch.Tensor, classes: torch.Tensor) -> None:
    with mode.autocast(images.device):
        logits = model(images)
    torch.autograd.backward(cross_entropy(logits.float(), classes))


def _timed(work: Callable[[], None], device: torch.device) -> float:
    def now() -> float:
        if device.type != "cuda":
            return time.thread_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    work()
    return now() - start


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    identity = [line for line in lines if line.startswith(("model name", "model\t", "cpu family", "CPU part"))][:3]
    return " ".join(line.partition(":")[2].strip() for line in identity) or platform.machine()


def _read(path: Path, situation: Mapping[str, object], modes: Sequence[Mode]) -> Mode | None:
    """What was chosen before; None if nothing was, or the file cannot be understood."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        mode = Mode(**document["chosen"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mode if document.get("situation") == situation and mode in modes else None


def _write(path: Path, document: Mapping[str, object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
