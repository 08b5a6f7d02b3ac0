import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.gate.statistics.multiplicity import alpha_at, confidence_at, holm

P_VALUES = st.lists(st.floats(0, 1), max_size=20)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_nothing_to_adjust() -> None:
    assert holm([]).shape == (0,)
    assert holm([0.3]) == pytest.approx([0.3])


@given(P_VALUES)
def test_adjusting_only_raises_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert np.all(adjusted >= np.array(p) - 1e-12)
    assert np.all(adjusted <= np.minimum(1, np.array(p) * len(p)) + 1e-12)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


@given(P_VALUES, st.floats(0.001, 0.5))
def test_what_is_significant_is_what_the_step_down_rejects(p: list[float], alpha: float) -> None:
    rejected = 0
    for step, value in enumerate(sorted(p)):
        if value * (len(p) - step) > alpha:
            break
        rejected += 1
    assert np.count_nonzero(holm(p) <= alpha) == rejected


def test_holm_holds_the_familywise_error() -> None:
    p = np.random.default_rng(4).random((4000, 6))
    assert np.mean([holm(row).min() <= 0.05 for row in p]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


@given(st.floats(0.0001, 0.2), st.integers(1, 1000))
def test_all_looks_together_spend_less_than_alpha(alpha: float, looks: int) -> None:
    spent = sum(alpha_at(alpha, look) for look in range(1, looks + 1))
    assert spent == pytest.approx(alpha * looks / (looks + 1))
    assert spent < alpha


@given(st.floats(0.5, 0.999), st.integers(1, 1000))
def test_confidence_is_two_sided(confidence: float, look: int) -> None:
    assert (1 - confidence_at(confidence, look)) / 2 == pytest.approx(alpha_at((1 - confidence) / 2, look), abs=1e-12)


def test_the_first_look_has_half() -> None:
    assert alpha_at(0.025, 1) == 0.0125
    assert confidence_at(0.95, 2) == pytest.approx(1 - 0.05 / 6)


@pytest.mark.parametrize("look", [0, -1])
def test_looks_are_counted_from_one(look: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        alpha_at(0.025, look)
