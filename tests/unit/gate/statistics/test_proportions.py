import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assay.gate.statistics.proportions import balanced, below, limits

COUNTS = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCE = st.floats(0.6, 0.9999)
ALPHAS = (0.025, 0.0125, 0.025 / 6, 0.025 / 42, 0.025 / 420)


@given(COUNTS, CONFIDENCE)
def test_limits_are_what_scipy_gives(counts: tuple[int, int], confidence: float) -> None:
    expected = stats.binomtest(*counts).proportion_ci(confidence, method="exact")
    assert limits(*counts, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_measured_says_nothing() -> None:
    assert limits(0, 0, 0.95) == (0, 1)


@pytest.mark.parametrize("successes", [1e-311, 1e-12])
def test_next_to_nothing_is_nothing(successes: float) -> None:
    assert limits(successes, successes + 0.5, 0.75).low == 0


def test_all_right_and_all_wrong_end_exactly() -> None:
    low, high = limits([0, 7], [7, 7], 0.95)
    assert (low[0], high[1]) == (0.0, 1.0)
    assert (low[1], high[0]) == pytest.approx((0.025 ** (1 / 7), 1 - 0.025 ** (1 / 7)))


@given(COUNTS, CONFIDENCE)
def test_failures_are_successes_seen_from_the_other_side(counts: tuple[int, int], confidence: float) -> None:
    low, high = limits(*counts, confidence)
    mirrored = limits(counts[1] - counts[0], counts[1], confidence)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-12)


@given(st.floats(0, 50), st.floats(0, 50), CONFIDENCE)
def test_fractions_of_counts_lie_between_whole_ones(successes: float, failures: float, confidence: float) -> None:
    n = successes + failures
    low, high = limits(successes, n, confidence)
    assert 0 <= low <= high <= 1
    assert low <= limits(successes + 0.5, n + 0.5, confidence).low + 1e-12
    assert limits(successes, n + 0.5, confidence).low <= low + 1e-12


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [1, 5, 50, 179, 2000])
def test_a_lower_limit_is_above_the_truth_no_more_often_than_it_says(n: int, alpha: float) -> None:
    """Exactly, by summing the binomial, at every proportion of a fine grid."""
    low = limits(np.arange(n + 1), n, 1 - 2 * alpha).low
    proportions = np.concatenate([np.linspace(0.001, 0.999, 333), 1 - np.geomspace(1e-6, 1e-2, 40)])
    fewest = np.searchsorted(low, proportions, side="right")
    errors = stats.binom.sf(fewest - 1, n, proportions)
    assert errors.max() <= alpha * (1 + 1e-9)


@given(COUNTS, st.floats(0.01, 0.99))
def test_below_is_the_exact_binomial_test(counts: tuple[int, int], floor: float) -> None:
    expected = stats.binomtest(*counts, floor, alternative="less").pvalue
    assert below(*counts, floor) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@given(COUNTS, st.floats(0.01, 0.99), CONFIDENCE)
def test_below_agrees_with_the_upper_limit(counts: tuple[int, int], floor: float, confidence: float) -> None:
    p, high = below(*counts, floor), limits(*counts, confidence).high
    assert (p <= (1 - confidence) / 2 + 1e-9) >= (high < floor)
    assert (high <= floor + 1e-9) >= (p < (1 - confidence) / 2)


def test_below_at_the_ends() -> None:
    assert below(0, 0, 0.9) == 1
    assert below(9, 9, 0.9) == 1
    assert below(0, 3, 1.0) == 0
    assert below(3, 9, 0.0) == 1
    assert below([1, 9], 10, 0.9) == pytest.approx(stats.binom.cdf([1, 9], 10, 0.9))


@given(st.lists(COUNTS, min_size=1, max_size=30), CONFIDENCE)
def test_a_balanced_mean_lies_within_its_limits(counts: list[tuple[int, int]], confidence: float) -> None:
    hits, support = np.array(counts).T
    low, high = balanced(hits, support, confidence)
    assert 0 <= low <= np.mean(hits / support) + 1e-12
    assert np.mean(hits / support) - 1e-12 <= high <= 1
    mirrored = balanced(support - hits, support, confidence)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@given(COUNTS, CONFIDENCE)
def test_one_class_is_a_plain_proportion(counts: tuple[int, int], confidence: float) -> None:
    assert balanced([counts[0]], [counts[1]], confidence) == pytest.approx(tuple(limits(*counts, confidence)))


@pytest.mark.parametrize("sizes", [(60, 60), (4, 175), (10, 490), (20, 60), (33, 50)])
@pytest.mark.parametrize("alpha", [0.025, 0.025 / 42, 0.025 / 420])
def test_a_balanced_lower_limit_errs_no_more_than_it_says(sizes: tuple[int, int], alpha: float) -> None:
    """Exactly, for two classes and every pair of recalls on a grid."""
    hits = np.stack(np.meshgrid(*(np.arange(n + 1) for n in sizes), indexing="ij"), axis=-1)
    size = 2 * min(sizes)
    low = limits((hits / sizes).mean(axis=-1) * size, size, 1 - 2 * alpha).low
    assert balanced(hits[3, 5], sizes, 1 - 2 * alpha)[0] == pytest.approx(low[3, 5])
    grid = np.concatenate([[0.02, 0.1, 0.3, 0.5, 0.7, 0.8], 1 - np.geomspace(0.1, 1e-4, 9), [1.0]])
    first, second = (stats.binom.pmf(np.arange(n + 1)[:, np.newaxis], n, grid) for n in sizes)
    errors = [
        first[:, i] @ (low > (grid[i] + grid[j]) / 2 + 1e-12) @ second[:, j]
        for i in range(len(grid))
        for j in range(len(grid))
    ]
    assert max(errors) <= alpha


@pytest.mark.parametrize(("k", "smallest"), [(10, 20), (100, 5), (1000, 10)])
def test_a_balanced_limit_errs_little_and_stays_useful_with_many_classes(k: int, smallest: int) -> None:
    rng = np.random.default_rng(k)
    support, recalls = rng.integers(smallest, 5 * smallest, k), rng.beta(18, 2, k)
    support[0] = smallest
    hits = rng.binomial(support, recalls, size=(2000, k))
    size = k * smallest
    low = limits((hits / support).mean(axis=1) * size, size, 0.95).low
    assert np.mean(low > recalls.mean()) <= 0.025
    assert recalls.mean() - low.mean() < 3.5 * np.sqrt(0.09 / size)
