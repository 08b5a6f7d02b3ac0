from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from assay.gate.statistics.clusters import DIFFERENCE, MIN_GROUPS, PROPORTION, Design, bootstrap, design, of_recalls
from assay.gate.statistics.paired import mcnemar
from assay.gate.statistics.proportions import balanced, limits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IMAGES = st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=1, max_size=200)
CONFIDENCE = st.floats(0.6, 0.9999)


def unpacked(images: list[tuple[bool, int]]) -> tuple[Floats, Ints]:
    right, groups = zip(*images, strict=True)
    return np.array(right, float), np.array(groups)


def of_mean(right: Floats, groups: Ints, confidence: float = 0.95) -> Design:
    return design(right, np.ones(len(right)), groups, PROPORTION, confidence, 1)


@given(st.lists(st.booleans(), min_size=1, max_size=200), CONFIDENCE)
def test_images_of_their_own_are_independent(right: list[bool], confidence: float) -> None:
    n = len(right)
    assert bootstrap(right, np.ones(n), np.arange(n), confidence, 1) == tuple(limits(sum(right), n, confidence))
    assert of_mean(np.array(right, float), np.arange(n)).enough


@given(IMAGES, CONFIDENCE)
def test_groups_only_widen(images: list[tuple[bool, int]], confidence: float) -> None:
    right, groups = unpacked(images)
    low, high = bootstrap(right, np.ones(len(right)), groups, confidence, 1)
    exact = limits(right.sum(), len(right), confidence)
    assert 0 <= low <= exact.low + 1e-12
    assert exact.high - 1e-12 <= high <= 1


@given(IMAGES)
def test_neither_order_nor_names_matter(images: list[tuple[bool, int]]) -> None:
    right, groups = unpacked(images)
    shuffled = np.random.default_rng(3).permutation(len(right))
    found, again = of_mean(right, groups), of_mean(right[shuffled], -7 * groups[shuffled])
    assert again.divisor == pytest.approx(found.divisor, rel=1e-9)
    assert again.effective_groups == pytest.approx(found.effective_groups)


@given(IMAGES)
def test_the_same_seed_gives_the_same_limits(images: list[tuple[bool, int]]) -> None:
    right, groups = unpacked(images)
    assert bootstrap(right, np.ones(len(right)), groups, 0.95, 5) == bootstrap(
        right, np.ones(len(right)), groups, 0.95, 5
    )


def test_without_a_mistake_every_group_is_one_image() -> None:
    groups = np.repeat(np.arange(100), 5)
    found = of_mean(np.ones(500), groups)
    assert found.effect == pytest.approx(5)
    assert found.effective_groups == pytest.approx(100)
    low, high = bootstrap(np.ones(500), np.ones(500), groups, 0.95, 1)
    assert 0.9 < low < limits(100, 100, 0.95).low
    assert high == 1


def test_copies_are_worth_one_image() -> None:
    right = np.repeat(np.random.default_rng(1).random(2000) < 0.9, 4).astype(float)
    assert of_mean(right, np.repeat(np.arange(2000), 4)).effect == pytest.approx(4, abs=0.3)


def test_groups_that_do_not_hang_together_cost_little() -> None:
    right = (np.random.default_rng(1).random(40_000) < 0.9).astype(float)
    assert of_mean(right, np.repeat(np.arange(8000), 5)).effect < 1.15


def test_where_only_large_groups_fail_resampling_finds_more_than_any_correlation() -> None:
    members = np.concatenate([np.ones(400, int), np.full(10, 20)])
    groups = np.repeat(np.arange(410), members)
    found = of_mean((groups < 400).astype(float), groups)
    assert found.effect > 1.3 * found.images / found.effective_groups


def test_a_failure_of_one_large_group_is_skewed_and_costs_more_than_its_variance() -> None:
    """All else equal, the largest variance would be that of groups that are right or wrong as a whole."""
    members = np.concatenate([np.ones(600, int), np.full(40, 10)])
    groups = np.repeat(np.arange(640), members)
    found = of_mean((groups != 600).astype(float), groups)
    assert found.effect > 1.3 * found.images / found.effective_groups


def test_one_group_shows_nothing() -> None:
    found = of_mean(np.ones(50), np.zeros(50, int))
    assert not found.enough
    assert found.effect == 50
    assert bootstrap(np.ones(50), np.ones(50), np.zeros(50, int), 0.95, 1)[0] < 0.01


def test_one_large_group_counts_as_hardly_more_than_one() -> None:
    groups = np.concatenate([np.zeros(1000, int), np.arange(1, 101)])
    found = of_mean(np.ones(1100), groups)
    assert (found.images, found.groups, found.enough) == (1100, 101, False)
    assert found.effective_groups == pytest.approx(1.21, abs=0.01)


def test_few_groups_are_too_few() -> None:
    assert not of_mean(np.ones(2 * MIN_GROUPS - 2), np.repeat(np.arange(MIN_GROUPS - 1), 2)).enough
    assert of_mean(np.ones(2 * MIN_GROUPS), np.repeat(np.arange(MIN_GROUPS), 2)).enough


def test_what_does_not_count_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    right, groups, counts = rng.random(900) < 0.9, rng.integers(0, 200, 900), rng.random(900) < 0.4
    masked = bootstrap(right & counts, counts, groups, 0.95, 1)
    assert masked == bootstrap(right[counts], np.ones(counts.sum()), groups[counts], 0.95, 1)
    assert bootstrap(np.zeros(3), np.zeros(3), np.zeros(3), 0.95, 1) == (0, 1)


def test_rarer_errors_are_allowed_by_fewer_images() -> None:
    right, groups = np.random.default_rng(5).random(500) < 0.95, np.repeat(np.arange(100), 5)
    divisors = [of_mean(right.astype(float), groups, 1 - 2 * alpha).divisor for alpha in (0.025, 0.0006, 0.00006)]
    assert divisors == sorted(divisors)


def beta_binomial(rng: np.random.Generator, sizes: Ints, mean: float, correlation: float) -> Ints:
    """Successes of groups whose images have this correlation."""
    if correlation >= 1:
        return sizes * (rng.random(sizes.shape) < mean)
    odds = (1 - correlation) / correlation
    return rng.binomial(sizes, rng.beta(mean * odds, (1 - mean) * odds, sizes.shape))


SIZES: dict[str, Callable[[np.random.Generator], Ints]] = {
    "pairs": lambda rng: np.full(40, 2),
    "fifty": lambda rng: np.full(25, 50),
    "geometric": lambda rng: rng.geometric(0.25, 120),
    "mixed": lambda rng: rng.choice([1, 20], p=[0.9, 0.1], size=300),
}


@pytest.mark.parametrize("sizes", list(SIZES))
@pytest.mark.parametrize(("mean", "correlation"), [(0.8, 1.0), (0.95, 0.3), (0.5, 0.05)])
def test_a_lower_limit_errs_no_more_than_it_says(sizes: str, mean: float, correlation: float) -> None:
    rng, runs, wrong = np.random.default_rng(11), 400, 0
    for _ in range(runs):
        members = SIZES[sizes](rng)
        right = beta_binomial(rng, members, mean, correlation)
        groups = np.repeat(np.arange(len(members)), members)
        hits = np.arange(members.sum()) - np.repeat(members.cumsum() - members, members) < right[groups]
        wrong += bootstrap(hits, np.ones(len(hits)), groups, 0.9, 1)[0] > mean
    assert wrong / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)


def test_a_difference_of_groups_errs_no_more_than_it_says() -> None:
    """Two equal models that differ on whole groups: not better by anything, five times in a hundred."""
    rng, runs, groups, naive, wrong = np.random.default_rng(12), 1000, np.repeat(np.arange(150), 4), 0, 0
    for _ in range(runs):
        signs = np.repeat(rng.choice([-1, 0, 1], p=[0.1, 0.8, 0.1], size=150), 4)
        b, c = float(np.sum(signs > 0)), float(np.sum(signs < 0))
        by = design(signs, np.ones(600), groups, DIFFERENCE, 0.9, 1).divisor
        wrong += mcnemar(b / by, c / by) <= 0.05
        naive += mcnemar(b, c) <= 0.05
    assert wrong / runs <= 0.05
    assert naive / runs > 0.15


def test_a_balanced_mean_of_groups_errs_no_more_than_it_says() -> None:
    """1:9, and groups of one class each."""
    rng, runs, wrong, members = np.random.default_rng(13), 400, 0, np.full(250, 4)
    classes = np.repeat(np.arange(250) < 25, 4).astype(int)
    groups = np.repeat(np.arange(250), 4)
    for _ in range(runs):
        recalls = np.where(np.arange(250) < 25, 0.8, 0.97)
        right = np.repeat(rng.random(250) < recalls, members)
        found = of_recalls(right, classes, groups, 0.9, 1)
        hits, support = np.bincount(classes, right), np.bincount(classes)
        wrong += balanced(hits / found.divisor, support / found.divisor, 0.9)[0] > 0.885
    assert found.effect > 3
    assert wrong / runs <= 0.05


def test_recalls_of_independent_images_have_no_design_effect() -> None:
    right, targets = np.array([True, False, True]), np.array([0, 0, 2])
    assert of_recalls(right, targets, np.arange(3), 0.95, 1).divisor == 1
