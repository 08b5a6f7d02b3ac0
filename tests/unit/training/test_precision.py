import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.config import Recipe
from assay.errors import AssayError
from assay.training import precision
from assay.training.precision import Mode, Normaliser, candidates, choose, decide, measure

CPU = torch.device("cpu")
BF16, FP32, BF16_PLAIN, FP32_PLAIN = modes = (
    Mode("bf16", True),
    Mode("fp32", True),
    Mode("bf16", False),
    Mode("fp32", False),
)


class Stopwatch:
    """Stands for `measure`: gives the timings it was made with, and counts how often it was asked."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = dict(zip(modes, seconds, strict=True))
        self.asked = 0

    def __call__(self) -> dict[Mode, float]:
        self.asked += 1
        return self.seconds


def chosen(stopwatch: Stopwatch, backbone: str = "net", size: int = 32) -> Mode:
    return choose(modes, backbone, size, CPU, stopwatch)


@pytest.mark.parametrize(
    ("seconds", "mode"),
    [
        ((1.0, 2.0, 1.5, 3.0), BF16),
        ((1.1, 1.0, 2.0, 2.0), BF16),  # a near tie: noise must not decide
        ((1.3, 1.0, 2.0, 2.0), FP32),
        ((1.3, 1.1, 2.0, 1.0), FP32),
        ((9.0, 5.0, 6.0, 1.0), FP32_PLAIN),
        ((9.0, 5.0, 1.0, 1.0), BF16_PLAIN),
    ],
)
def test_a_mode_is_left_only_for_a_clearly_faster_one(seconds: tuple[float, ...], mode: Mode) -> None:
    assert decide(dict(zip(modes, seconds, strict=True))) == mode


def test_a_choice_is_remembered() -> None:
    first, second = Stopwatch(1, 2, 3, 4), Stopwatch(4, 3, 2, 1)
    assert chosen(first) == chosen(second) == BF16
    assert (first.asked, second.asked) == (1, 0)


@pytest.mark.parametrize("change", [{"backbone": "other"}, {"size": 64}])
def test_another_situation_is_measured_anew(change: dict[str, Any]) -> None:
    chosen(Stopwatch(1, 2, 3, 4))
    assert chosen(Stopwatch(4, 3, 2, 1), **change) == FP32_PLAIN


@pytest.mark.parametrize("content", ["", "{", "[]", '{"chosen": {"precision": "bf16", "channels_last": true}}'])
def test_a_damaged_memory_is_replaced(assay_home: Path, content: str) -> None:
    chosen(Stopwatch(1, 2, 3, 4))
    (path,) = (assay_home / "precision").iterdir()
    path.write_text(content)
    assert chosen(Stopwatch(4, 3, 2, 1)) == FP32_PLAIN
    assert chosen(Stopwatch(1, 2, 3, 4)) == FP32_PLAIN


def test_nothing_is_measured_where_nothing_is_open(assay_home: Path) -> None:
    assert choose((FP32,), "net", 32, CPU, lambda: pytest.fail("measured")) == FP32
    assert not assay_home.exists()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, modes),
        ({"precision": "fp32"}, (FP32, FP32_PLAIN)),
        ({"channels_last": False}, (BF16_PLAIN, FP32_PLAIN)),
        ({"precision": "bf16", "channels_last": True}, (BF16,)),
    ],
)
def test_the_recipe_says_what_is_open(settings: dict[str, Any], expected: tuple[Mode, ...]) -> None:
    assert candidates(Recipe(backbone="any", **settings), torch.nn.Conv2d(3, 4, 3)) == expected


def strided(channels: int, kernel: int = 1, stride: int = 2) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(channels, 4, kernel, stride))


def test_bf16_is_left_out_where_a_kernel_overruns_its_memory() -> None:
    assert candidates(Recipe(backbone="any"), strided(3)) == (FP32, FP32_PLAIN)
    with pytest.raises(AssayError, match=r"recipe\.precision: bf16 .*convolution 0 of 3 channels .*fp32 or auto"):
        candidates(Recipe(backbone="any", precision="bf16"), strided(3))


@pytest.mark.parametrize("model", [strided(16), strided(3, kernel=3), strided(3, stride=1)])
def test_bf16_is_for_all_other_models(model: torch.nn.Module) -> None:
    assert candidates(Recipe(backbone="any"), model) == modes


def test_measuring_leaves_the_model_and_threads_as_they_are() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    before, threads = copy.deepcopy(model.state_dict()), torch.get_num_threads()
    batch = torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    seconds = measure(model, batch, modes, lambda mode: Normaliser((0.5,) * 3, (0.2,) * 3, mode, CPU))
    assert set(seconds) <= set(modes)
    assert all(value > 0 for value in seconds.values())
    assert all(torch.equal(now, then) for now, then in zip(model.state_dict().values(), before.values(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.get_num_threads() == threads


def test_what_is_fast_is_measured_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass is made here: only how many would be."""
    batch = torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    asked: list[object] = []

    def timed(work: object, _: torch.device) -> float:
        asked.append(work)
        return 1.0

    def passes(trial_s: float) -> int:
        asked.clear()
        monkeypatch.setattr(precision, "TRIAL_S", trial_s)
        measure(torch.nn.Conv2d(3, 4, 3), batch, modes, lambda mode: Normaliser((0.5,) * 3, (0.2,) * 3, mode, CPU))
        return len(asked)

    monkeypatch.setattr(precision, "_timed", timed)
    least = 1 + len(modes) * (1 + precision.ROUNDS)
    assert (passes(0.0), passes(0.2) > least) == (least, True)


@pytest.mark.parametrize("mode", modes, ids=str)
def test_pixels_are_normalised_in_the_layout_of_the_mode(mode: Mode) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    images = Normaliser(mean, std, mode, CPU)(torch.from_numpy(pixels))
    expected = (pixels / 255 - mean) / std
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=mode.layout)
    assert np.allclose(images.numpy().transpose(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize("mode", modes, ids=str)
def test_autocast_computes_in_the_format_of_the_mode(mode: Mode) -> None:
    with mode.autocast(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if mode in (BF16, BF16_PLAIN) else torch.float32)
