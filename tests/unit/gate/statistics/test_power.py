import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assay.gate.statistics.paired import difference, not_above
from assay.gate.statistics.power import (
    Question,
    images_needed,
    images_needed_for_floor,
    least_images,
    power_of_difference,
    power_of_floor,
    smallest_difference,
)
from assay.gate.statistics.proportions import limits


def enumerated(n: int, question: Question) -> float:
    """Power by every table."""
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = b + c <= n
    b, c = b[possible], c[possible]
    likely = stats.multinomial.pmf(
        np.stack([b, c, n - b - c], axis=-1),
        n,
        [
            (question.discordance + question.difference) / 2,
            (question.discordance - question.difference) / 2,
            1 - question.discordance,
        ],
    )
    some = likely > 1e-12
    shown = not_above(b[some], c[some], n, question.least) <= (1 - question.confidence) / 2
    return float(np.sum(likely[some] * shown))


@pytest.mark.parametrize(
    ("n", "question"),
    [
        (60, Question(-0.1, 0.0, 0.1, 0.95)),
        (90, Question(-0.05, 0.0, 0.02, 0.95)),
        (90, Question(0.0, 0.1, 0.2, 0.95)),
        (60, Question(0.05, 0.2, 0.3, 0.99)),
        (150, Question(-0.2, -0.1, 0.6, 0.95)),
    ],
)
def test_power_is_what_enumeration_gives(n: int, question: Question) -> None:
    assert power_of_difference(n, question) == pytest.approx(enumerated(n, question), abs=1e-3)


@pytest.mark.parametrize(
    ("n", "question"),
    [
        (2000, Question(-0.01, 0.0, 0.02, 0.95)),
        (6000, Question(0.0, 0.006, 0.03, 0.95)),
        (40_000, Question(-0.002, 0.0, 0.02, 0.95)),
    ],
)
def test_power_is_what_simulation_gives(n: int, question: Question) -> None:
    share = question.discordance
    cells = [(share + question.difference) / 2, (share - question.difference) / 2, 1 - share]
    drawn = np.random.default_rng(2).multinomial(n, cells, size=4000)
    tables, weights = np.unique(drawn[:, :2], axis=0, return_counts=True)
    shown = not_above(tables[:, 0], tables[:, 1], n, question.least) <= 0.025
    assert power_of_difference(n, question) == pytest.approx(np.average(shown, weights=weights), abs=0.03)


@pytest.mark.parametrize(
    ("least", "discordance", "true"), [(-0.01, 0.03, 0.0), (-0.05, 0.02, 0.0), (0.0, 0.05, 0.02), (0.01, 0.05, 0.02)]
)
def test_so_many_images_have_the_power_and_fewer_have_not(least: float, discordance: float, true: float) -> None:
    needed = images_needed(least, discordance, 0.95, 0.8, true)
    assert needed is not None
    question = Question(least, true, discordance, 0.95)
    assert power_of_difference(needed, question) >= 0.8
    assert power_of_difference(math.floor(needed * 0.9), question) < 0.8


def test_the_number_is_near_the_textbooks() -> None:
    """Lu & Bean's formula, (1.96 + 0.84)^2 * discordance / margin^2, which knows no whole numbers."""
    assert images_needed(-0.01, 0.1, 0.95, 0.8) == pytest.approx(7.849 * 0.1 / 1e-4, rel=0.05)


def test_a_model_at_the_bound_is_never_shown() -> None:
    assert images_needed(-0.01, 0.05, 0.95, 0.8, -0.01) is None
    assert images_needed(0.0, 0.05, 0.95, 0.8) is None
    assert images_needed(0.0, 0.05, 0.95, 0.8, 1e-6) is None


def test_models_that_never_disagree_need_the_least() -> None:
    assert images_needed(-0.01, 0.0, 0.95, 0.8) == least_images(0.01, 0.95) == 368


@settings(max_examples=40)
@given(st.floats(0.0005, 0.9), st.floats(0.6, 0.999))
def test_below_the_least_no_margin_is_shown(margin: float, confidence: float) -> None:
    least = least_images(margin, confidence)
    assert difference(0, 0, least, confidence).low >= -margin - 1e-12
    assert difference(0, 0, least - 1, confidence).low < -margin + 1e-12


def test_any_margin_of_everything_is_shown_by_one_image() -> None:
    assert least_images(1.0, 0.95) == 1


@pytest.mark.parametrize(("n", "discordance"), [(50, 0.1), (179, 0.04), (2000, 0.03), (40_000, 0.02), (500, 0.0)])
def test_the_smallest_margin_has_the_power_and_a_smaller_one_has_not(n: int, discordance: float) -> None:
    margin = smallest_difference(n, discordance, 0.95, 0.8)
    assert power_of_difference(n, Question(-margin, 0.0, discordance, 0.95)) >= 0.8
    assert power_of_difference(n, Question(-0.98 * margin, 0.0, discordance, 0.95)) < 0.8


def test_one_image_shows_hardly_anything() -> None:
    assert smallest_difference(1, 0.1, 0.95, 0.8) > 0.97


def test_margin_and_number_of_images_are_inverse() -> None:
    margin = smallest_difference(3000, 0.04, 0.95, 0.8)
    assert images_needed(-margin, 0.04, 0.95, 0.8) == pytest.approx(3000, rel=0.04)


@settings(max_examples=40)
@given(st.floats(0.02, 0.97), st.floats(0.005, 0.5), st.floats(0.7, 0.999), st.floats(0.55, 0.95))
def test_so_many_images_show_a_floor(bound: float, more: float, confidence: float, power: float) -> None:
    expected = min(bound + more, 1.0)
    needed = images_needed_for_floor(bound, expected, confidence, power)
    assert needed is not None
    assert power_of_floor(needed, bound, expected, confidence) >= power


@pytest.mark.parametrize("n", [30, 179, 2000])
def test_power_of_a_floor_is_what_enumeration_gives(n: int) -> None:
    shown = limits(np.arange(n + 1), n, 0.95).low >= 0.9
    assert power_of_floor(n, 0.9, 0.96, 0.95) == pytest.approx(stats.binom.pmf(np.arange(n + 1), n, 0.96) @ shown)


def test_floors_that_ask_for_nothing_or_too_much() -> None:
    assert images_needed_for_floor(0.0, 0.9, 0.95, 0.8) == 0
    assert images_needed_for_floor(0.9, 0.9, 0.95, 0.8) is None
    assert images_needed_for_floor(1.0, 1.0, 0.95, 0.8) is None
    assert images_needed_for_floor(0.95, 1.0, 0.95, 0.8) == 72
