import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from assay.evaluation import calibration as module
from assay.evaluation.calibration import BINS, calibration

Floats = NDArray[np.float64]


def measured(chosen: Floats, right: NDArray[np.bool_], seed: int = 0) -> tuple[float, float, float]:
    error, _ = calibration(chosen, right, 0.95, seed)
    return error["low"], error["value"], error["high"]


def sample(n: int, sharpness: float, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidences of a model, and whether it was right; a sharpness of 1 is calibrated, more is too sure of itself."""
    generator = np.random.default_rng(seed)
    truth = 0.5 + 0.5 * generator.beta(3, 0.7, n)
    return expit(sharpness * logit(np.clip(truth, 1e-9, 1 - 1e-9))), generator.random(n) < truth


def test_one_bin_by_hand() -> None:
    low, value, high = measured(np.full(10, 0.9), np.arange(10) < 7)
    assert value == pytest.approx(0.2)
    assert low <= value <= high


def test_bins_hold_the_same_number_and_describe_themselves() -> None:
    chosen = np.linspace(0.5, 1, 150)
    _, bins = calibration(chosen, np.ones(150, bool), 0.95, 0)
    assert [b.count for b in bins] == [10] * BINS
    assert bins[0].low == 0.5
    assert bins[-1].high == 1
    assert all(b.low <= b.confidence <= b.high <= 1 and b.accuracy_low < b.accuracy == b.accuracy_high for b in bins)


def test_equal_confidences_share_a_bin() -> None:
    chosen = np.array([1.0] * 90 + [0.6] * 10)
    _, bins = calibration(chosen, np.ones(100, bool), 0.95, 0)
    assert [b.count for b in bins] == [10, 90]


@pytest.mark.parametrize("n", [1, 2, 14, 16])
def test_few_images_are_measured_too(n: int) -> None:
    low, value, high = measured(np.linspace(0.6, 0.9, n), np.ones(n, bool))
    assert 0 <= low <= value <= high <= 1


def test_no_mistake_leaves_room_above() -> None:
    low, value, high = measured(np.full(30, 1.0), np.ones(30, bool))
    assert (low, value) == (0, 0)
    assert high > 0.05


def test_memory_is_bounded_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, right = sample(50, 1.0, 0)
    place = module._bins(chosen)
    shapes = []
    gaps_of = module._gaps
    monkeypatch.setattr(module, "BLOCK", 500)
    monkeypatch.setattr(module, "_gaps", lambda misses, *rest: shapes.append(misses.size) or gaps_of(misses, *rest))
    chance, resampled = module._resample(chosen, right, place, 0)
    assert max(shapes) <= 500
    assert len(chance) == len(resampled) == module.RESAMPLES


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("sharpness", [1.0, 1.5, 2.5])
def test_covers_what_it_says(n: int, sharpness: float) -> None:
    """The truth is the gap in the sample's own bins over a large population, by which the error is defined."""
    chosen, right = sample(200_000, sharpness, 10**6)
    covered, above = 0, 0
    for seed in range(60):
        few, outcome = sample(n, sharpness, seed)
        edges = np.unique(np.quantile(few, np.arange(1, BINS) / BINS, method="lower"))
        place = np.searchsorted(edges, chosen)
        truth = np.abs(np.bincount(place, weights=right - chosen)).sum() / len(chosen)
        low, _, high = measured(few, outcome, seed)
        covered += low <= truth + 0.003 and truth - 0.003 <= high
        above += low > truth + 0.003
    assert covered >= 54
    assert above <= 3
