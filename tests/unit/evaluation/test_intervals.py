import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from assay.evaluation.intervals import auroc, mean_auroc, mean_of_proportions, wilson, z_score

COUNTS = st.integers(0, 500)


def test_the_quantile_is_the_familiar_one() -> None:
    assert z_score(0.95) == pytest.approx(1.959964, abs=1e-6)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.6, 0.999))
def test_wilson_is_what_scipy_gives(counts: tuple[int, int], confidence: float) -> None:
    expected = stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson(*counts, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_ends_exactly_where_nothing_is_left() -> None:
    low, high = wilson([0, 7], [7, 7])
    assert (low[0], high[1]) == (0.0, 1.0)
    assert 0 < high[0] < 1
    assert 0 < low[1] < 1


def test_wilson_without_a_trial_says_nothing() -> None:
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("n", [20, 100, 450])
def test_wilson_covers_what_it_says(n: int) -> None:
    """Exactly, by summing the binomial; Wilson's interval holds its level on average over the proportions."""
    successes = np.arange(n + 1)
    low, high = wilson(successes, n)
    proportions = np.linspace(0.01, 0.99, 197)[:, np.newaxis]
    coverage = (stats.binom.pmf(successes, n, proportions) * ((low <= proportions) & (proportions <= high))).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.006)
    assert coverage.min() > 0.83


@pytest.mark.parametrize(
    ("sizes", "recalls"),
    [
        ((225, 225), (0.97, 0.95)),
        ((20, 980), (0.9, 0.99)),
        ((30,) * 10, (0.95,) * 10),
        ((15,) * 50, (0.9,) * 50),
        ((4,) * 100, (1.0,) * 50 + (0.5,) * 50),
    ],
)
def test_a_mean_of_recalls_covers_what_it_says(sizes: tuple[int, ...], recalls: tuple[float, ...]) -> None:
    hits = np.random.default_rng(2).binomial(sizes, recalls, size=(2000, len(sizes)))
    low, high = np.array([mean_of_proportions(row, sizes) for row in hits]).T
    truth = np.mean(recalls)
    assert np.mean((low <= truth) & (truth <= high)) >= 0.935
    assert np.mean(low > truth) <= 0.035


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_mean_of_proportions_holds_its_value(counts: tuple[int, int]) -> None:
    low, high = mean_of_proportions([counts[0], 3], [counts[1], 3])
    assert 0 <= low <= (counts[0] / counts[1] + 1) / 2 <= high <= 1
    assert low < high


@given(st.floats(0, 1), st.integers(1, 1000), st.integers(1, 1000))
def test_auroc_holds_its_value_and_is_symmetric(area: float, positives: int, negatives: int) -> None:
    low, high = auroc(area, positives, negatives)
    assert 0 <= low <= area <= high <= 1
    assert auroc(1 - area, negatives, positives) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_perfect_separation_of_few_images_leaves_room() -> None:
    low, high = auroc(1.0, 10, 10)
    assert (round(float(low), 2), float(high)) == (0.8, 1.0)


def area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """By the Mann-Whitney statistic."""
    m, n = int(positive.sum()), int((~positive).sum())
    return float((stats.rankdata(scores)[positive].sum() - m * (m + 1) / 2) / (m * n))


@pytest.mark.parametrize(("positives", "negatives"), [(50, 50), (20, 1000), (300, 300)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_auroc_covers_what_it_says(shift: float, positives: int, negatives: int) -> None:
    """Two normal distributions, for which the area is known."""
    generator, truth = np.random.default_rng(4), stats.norm.cdf(shift / math.sqrt(2))
    positive = np.arange(positives + negatives) < positives
    areas = [area(generator.normal(shift * positive, 1), positive) for _ in range(400)]
    low, high = auroc(areas, np.full(400, positives), np.full(400, negatives))
    assert np.mean((low <= truth) & (truth <= high)) >= 0.935
    assert np.mean(low > truth) <= 0.04


def test_a_mean_area_that_is_perfect_leaves_room() -> None:
    low, high = mean_auroc(np.ones(3), [10, 10, 10], [20, 20, 20], variance=0.0)
    assert 0.8 < low < high == 1


def test_a_mean_area_believes_the_larger_variance() -> None:
    narrow, wide = (mean_auroc(np.full(3, 0.9), [50] * 3, [100] * 3, variance) for variance in (1e-9, 1e-2))
    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]
