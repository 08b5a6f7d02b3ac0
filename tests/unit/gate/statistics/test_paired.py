import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from assay.gate.statistics.paired import difference, mcnemar, not_above, tango, tango_score
from assay.gate.statistics.proportions import limits

Floats = NDArray[np.float64]

TABLES = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 3000)).map(lambda t: (t[0], t[1], sum(t)))
FRACTIONS = st.tuples(st.floats(0, 9), st.floats(0, 9), st.floats(0, 9)).map(lambda t: (t[0], t[1], sum(t)))
CONFIDENCE = st.floats(0.6, 0.9999)
ALPHAS = (0.025, 0.0125, 0.025 / 6, 0.025 / 42, 0.025 / 420)
LEASTS = (-0.05, -0.01, 0.0, 0.02)


@given(TABLES)
def test_mcnemar_is_a_coin(table: tuple[int, int, int]) -> None:
    b, c, _ = table
    expected = stats.binomtest(b, b + c, alternative="greater").pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


@given(TABLES, st.floats(-0.9, 0.9))
def test_the_distribution_is_that_of_two_dirichlet_shares(table: tuple[int, int, int], least: float) -> None:
    """By the sum of the two shares and their ratio, which are independent beta variables."""
    b, c, n = (float(value) for value in table)
    b, n = b + 1, n + 2
    levels = (np.arange(4000) + 0.5) / 4000
    total = special.betaincinv(b + c + 1, n - b - c, levels)
    expected = np.mean(special.betainc(b, c + 1, np.clip((1 + least / total) / 2, 0, 1)))
    assert not_above(b, c, n, least) == pytest.approx(expected, abs=4e-4)


@given(TABLES)
def test_at_no_difference_the_test_is_mcnemar(table: tuple[int, int, int]) -> None:
    assert not_above(*table, 0.0) == pytest.approx(mcnemar(table[0], table[1]), rel=1e-5, abs=1e-14)


@settings(max_examples=40)
@given(TABLES, CONFIDENCE)
def test_a_lower_end_above_zero_is_a_significant_mcnemar(table: tuple[int, int, int], confidence: float) -> None:
    low, high = difference(*table, confidence)
    alpha = (1 - confidence) / 2
    assert (low > 0) == (mcnemar(table[0], table[1]) <= alpha)
    assert (high < 0) == (mcnemar(table[1], table[0]) <= alpha)


def test_a_tie_with_alpha_is_significant() -> None:
    """Three of three: p is 1/8, and so is alpha."""
    assert mcnemar(3, 0) == 0.125
    assert difference(3, 0, 50, 0.75).low > 0
    assert difference(0, 3, 50, 0.75).high < 0


@settings(max_examples=40)
@given(st.one_of(TABLES, FRACTIONS), CONFIDENCE)
def test_swapping_the_models_changes_the_sign(table: tuple[float, float, float], confidence: float) -> None:
    b, c, n = table
    low, high = difference(b, c, n, confidence)
    assert difference(c, b, n, confidence) == (-high, -low)
    assert -1 <= low <= (b - c) / max(n, 1e-9) + 1e-9
    assert low <= high <= 1


@settings(max_examples=40)
@given(st.one_of(TABLES, FRACTIONS), CONFIDENCE, st.floats(-0.99, 0.99))
def test_limit_and_p_value_agree(table: tuple[float, float, float], confidence: float, least: float) -> None:
    low = difference(*table, confidence).low
    p, alpha = not_above(*table, least), (1 - confidence) / 2
    assert (p <= alpha * (1 + 1e-5)) >= (low > least)
    assert (low >= least - 1e-9) >= (p < alpha * (1 - 1e-5))


@settings(max_examples=40)
@given(st.one_of(TABLES, FRACTIONS), CONFIDENCE)
def test_an_image_more_for_the_first_raises_the_limits(table: tuple[float, float, float], confidence: float) -> None:
    b, c, n = table
    low, high = difference([b, b + 1, b], [c, c, c + 1], [n + 1] * 3, confidence)
    assert low[2] - 1e-9 <= low[0] <= low[1] + 1e-9
    assert high[2] - 1e-9 <= high[0] <= high[1] + 1e-9


@given(st.integers(0, 40), st.integers(0, 400), CONFIDENCE)
def test_without_a_win_the_limit_is_clopper_pearsons(c: int, both: int, confidence: float) -> None:
    assert difference(0, c, c + both, confidence).low == pytest.approx(-limits(c, c + both, confidence).high, abs=1e-9)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((0, 0, 0), (-1, 1)),
        ((0, 0, 1), (-0.975, 0.975)),
        ((1, 0, 1), (-0.95, 1)),
        ((7, 0, 7), (2 * 0.025 ** (1 / 7) - 1, 1)),
        ((0, 7, 7), (-1, 1 - 2 * 0.025 ** (1 / 7))),
        ((0, 0, 368), (-(1 - 0.025 ** (1 / 368)), 1 - 0.025 ** (1 / 368))),
    ],
)
def test_limits_at_the_edges(table: tuple[int, int, int], expected: tuple[float, float]) -> None:
    assert difference(*table, 0.95) == pytest.approx(expected, abs=1e-9)


def test_arrays_are_worked_on_in_blocks() -> None:
    b, c = np.arange(5000) % 9, np.arange(5000) % 7
    p = not_above(b, c, 200, -0.01)
    assert p.shape == (5000,)
    assert p[[0, 4500]] == pytest.approx([not_above(b[i], c[i], 200, -0.01) for i in (0, 4500)])
    low, high = difference(b[:6].reshape(2, 3), 2, 200, 0.95)
    assert low.shape == high.shape == (2, 3)
    assert low[1, 2] == difference(b[5], 2, 200, 0.95).low


@pytest.mark.parametrize("table", [(-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_impossible_tables_are_errors(table: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="only one got right"):
        difference(*table, 0.95)


def critical(n: int, least: float, alpha: float, most: int) -> Floats:
    """For every number of losses up to `most`, the fewest wins that show a difference above `least`."""
    c = np.arange(most + 1)
    low, high = np.full(len(c), -1), n - c + 1
    for _ in range(int(np.ceil(np.log2(n + 2)))):
        middle = (low + high) // 2
        shown = not_above(np.clip(middle, 0, n - c), c, n, least) <= alpha
        low, high = np.where(shown, low, middle), np.where(shown, middle, high)
    return high.astype(float)


def error(wins: Floats, n: int, least: float, losing: Floats) -> Floats:
    """Chance of so many wins where the difference is `least` and the first alone is wrong on a share of `losing`."""
    c = np.arange(len(wins))[:, np.newaxis]
    winning = stats.binom.sf(wins[:, np.newaxis] - 1, n - c, np.minimum((losing + least) / (1 - losing), 1))
    result: Floats = np.sum(stats.binom.pmf(c, n, losing) * winning, axis=0)
    return result


@pytest.mark.parametrize("least", LEASTS)
@pytest.mark.parametrize(("n", "top"), [(20, 1.0), (50, 1.0), (179, 0.3), (500, 0.06), (2000, 0.02)])
def test_the_error_is_at_most_alpha_whatever_the_discordance(n: int, top: float, least: float) -> None:
    """Exactly, by enumerating all tables, for every discordance of a grid."""
    least_losing, most_losing = max(0.0, -least), min((1 - least) / 2, max(0.0, -least) + top)
    losing = least_losing + np.concatenate([[0.0], np.geomspace(1e-4, most_losing - least_losing, 25)])
    most = int(min(n, n * losing[-1] + 8 * np.sqrt(n * losing[-1]) + 8))
    for alpha in ALPHAS:
        assert error(critical(n, least, alpha, most), n, least, losing).max() <= alpha


def test_tangos_error_is_not() -> None:
    """Why the gate does not use it: 50 images, a margin of 2 points, alpha = 0.025 / 6."""
    alpha, n, least = 0.025 / 6, 50, -0.02
    b, c = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    shown = tango_score(b, c, np.array(float(n)), np.array(least)) >= special.ndtri(1 - alpha)
    tables = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=-1)[b + c <= n], n, [0.49, 0.51, 0.0])
    assert np.sum(tables * shown[b + c <= n]) > 1.2 * alpha


def test_tango_is_what_was_published() -> None:
    """Bentur et al. 2009, as given by Fagerland, Lydersen & Laake 2014 (Statist. Med. 33:2850-2875)."""
    assert tango(1, 7, 21, 0.95) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(TABLES.filter(lambda t: t[2] > 0), CONFIDENCE)
def test_tango_is_defined_and_antisymmetric(table: tuple[int, int, int], confidence: float) -> None:
    b, c, n = table
    low, high = tango(b, c, n, confidence)
    assert -1 <= low <= (b - c) / n + 1e-9
    assert (b - c) / n - 1e-9 <= high <= 1
    assert tango(c, b, n, confidence) == (-high, -low)


@given(st.integers(1, 3000), CONFIDENCE)
def test_tango_without_disagreement_has_a_closed_form(n: int, confidence: float) -> None:
    z = special.ndtri(0.5 + confidence / 2)
    assert tango(0, 0, n, confidence).high == pytest.approx(z * z / (n + z * z), abs=1e-9)


def test_the_interval_covers_what_it_says() -> None:
    n = 179
    cells = np.random.default_rng(n).multinomial(n, [0.03, 0.02, 0.95], size=3000)
    tables, weights = np.unique(cells, axis=0, return_counts=True)
    low, high = difference(tables[:, 0], tables[:, 1], n, 0.95)
    assert np.average((low <= 0.01) & (high >= 0.01), weights=weights) >= 0.945
