import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assay.gate.statistics.operating import negatives_needed, recall_at_rate
from assay.gate.statistics.proportions import limits

SCORES = st.lists(st.integers(0, 8).map(lambda step: step / 8), max_size=400).map(np.array)


def test_too_few_negatives_flag_nothing_and_say_how_many_would_do() -> None:
    point = recall_at_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2]), 0.05, 0.95)
    assert (point.threshold, point.hits, point.enough) == (float("inf"), 0, False)
    assert point.negatives_needed == negatives_needed(0.05, 0.95) == 86
    assert point.recall[0] == 0


@pytest.mark.parametrize("allowed", [0.001, 0.01, 0.05, 0.3])
def test_as_many_negatives_as_are_needed_are_enough(allowed: float) -> None:
    needed = negatives_needed(allowed, 0.95)
    scores = np.linspace(0, 0.5, needed)
    enough = recall_at_rate(np.ones(3), scores, allowed, 0.95)
    assert (enough.threshold, enough.hits, enough.enough) == (0.5, 3, True)
    assert not recall_at_rate(np.ones(3), scores[1:], allowed, 0.95).enough


def test_without_positives_nothing_is_said() -> None:
    point = recall_at_rate(np.empty(0), np.linspace(0, 1, 500), 0.05, 0.95)
    assert (point.recall, point.measured, point.enough) == ((0, 1), None, False)


def test_no_images_at_all() -> None:
    point = recall_at_rate(np.empty(0), np.empty(0), 0.05, 0.95)
    assert (point.threshold, point.false_positive_rate) == (float("inf"), 1)


@given(SCORES, SCORES, st.floats(0.005, 0.5), st.floats(0.8, 0.999))
def test_threshold_keeps_the_rate_and_no_lower_score_does(
    positives: np.ndarray, negatives: np.ndarray, allowed: float, confidence: float
) -> None:
    point = recall_at_rate(positives, negatives, allowed, confidence)
    assert point.false_positives == np.count_nonzero(negatives > point.threshold)
    assert point.hits == np.count_nonzero(positives > point.threshold)
    shown = np.isfinite(point.threshold)
    assert shown == (point.negatives >= point.negatives_needed)
    assert (point.false_positive_rate <= allowed + 1e-9) >= shown
    at_or_above = np.count_nonzero(negatives >= point.threshold)
    lower = limits(at_or_above, max(len(negatives), 1), 1 - (1 - confidence) / 2).high
    assert (lower > allowed - 1e-9) >= shown


def test_equal_scores_fall_on_the_same_side() -> None:
    point = recall_at_rate(np.full(50, 0.5), np.full(500, 0.5), 0.05, 0.95)
    assert (point.threshold, point.hits, point.false_positives) == (0.5, 0, 0)


def test_both_guarantees_hold_together() -> None:
    rng, allowed, runs = np.random.default_rng(8), 0.05, 1500
    wrong = 0
    for _ in range(runs):
        point = recall_at_rate(rng.normal(2, 1, 80), rng.normal(0, 1, 300), allowed, 0.9)
        rate, recall = stats.norm.sf(point.threshold), stats.norm.sf(point.threshold - 2)
        wrong += bool(rate > allowed) or bool(point.recall[0] > recall)
    assert wrong / runs <= 0.05


def test_groups_ask_for_more_negatives() -> None:
    scores = np.linspace(0, 1, 600)
    alone = recall_at_rate(scores, scores, 0.02, 0.95)
    grouped = recall_at_rate(scores, scores, 0.02, 0.95, divisors=(2.0, 2.0))
    assert grouped.negatives_needed == pytest.approx(2 * alone.negatives_needed, abs=1)
    assert grouped.threshold > alone.threshold
    assert grouped.false_positive_rate <= 0.02
