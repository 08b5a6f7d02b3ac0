import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.models.abstention import Abstention, answered, fit_abstention, in_set

Float = np.float32


def drawn(rng: np.random.Generator, n: int, k: int = 3, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 [n, k] of a model that is none too honest, and own labels."""
    logits = rng.normal(size=(n, k))
    targets = np.array([rng.choice(k, p=row) for row in _softmax(logits)], dtype=np.int64)
    return _softmax(sharpness * logits).astype(Float), targets


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [19, 20, 39, 200])
def test_new_images_are_covered_as_promised_however_few_were_fitted_on(n: int, coverage: float) -> None:
    rng = np.random.default_rng(n)
    p, targets = drawn(rng, 40_000)
    covered = []
    for _ in range(600):
        fitting, fresh = np.split(rng.choice(len(p), n + 200, replace=False), [n])
        fitted = fit_abstention(p[fitting], targets[fitting], coverage)
        covered.append(in_set(p[fresh], fitted.threshold)[np.arange(200), targets[fresh]].mean())
    error = np.std(covered) / math.sqrt(len(covered))
    assert coverage - 3 * error <= np.mean(covered) <= coverage + 1 / (n + 1) + 3 * error + 0.001


@given(st.integers(1, 300), st.sampled_from([0.51, 0.8, 0.9, 0.95, 0.99]), st.integers(0, 5))
def test_the_threshold_is_the_quantile_of_the_paper(n: int, coverage: float, seed: int) -> None:
    p, targets = drawn(np.random.default_rng(seed), n)
    own = np.sort(1 - p[np.arange(n), targets].astype(float))
    rank = math.ceil(round((n + 1) * coverage, 9))
    fitted = fit_abstention(p, targets, coverage)
    exact = 1 - own[rank - 1] if rank <= n else 0.0
    assert max(exact - 1.001e-4, 0) <= fitted.threshold <= exact
    inside = in_set(p, fitted.threshold)[np.arange(n), targets]
    assert inside.sum() >= min(rank, n)


@pytest.mark.parametrize("n", [0, 1, 18])
def test_too_few_images_put_every_label_in_every_set(n: int) -> None:
    p, targets = drawn(np.random.default_rng(0), n)
    fitted = fit_abstention(p, targets, 0.95)
    assert fitted.threshold == 0
    assert in_set(np.array([[1.0, 0.0, 0.0]], Float), fitted.threshold).all()


def test_nineteen_images_are_enough_for_a_coverage_of_95_percent() -> None:
    p, targets = drawn(np.random.default_rng(0), 19)
    assert fit_abstention(p, targets, 0.95).threshold == pytest.approx(p[np.arange(19), targets].min(), abs=1e-4)


def test_rounding_on_another_machine_moves_neither_threshold_nor_set() -> None:
    p = np.full((40, 2), 0.5, Float)
    p[:] = [1.0, 0.0]
    targets = np.zeros(40, np.int64)
    fitted = fit_abstention(p, targets, 0.9)
    assert fitted.threshold == 0.9999
    almost = p.copy()
    almost[:, 0] -= Float(1e-6)
    assert fit_abstention(almost, targets, 0.9) == fitted
    assert answered(in_set(almost, fitted.threshold)).all()


@given(st.integers(1, 50), st.integers(1, 6), st.floats(0, 1))
def test_an_answer_is_the_most_probable_label(n: int, k: int, threshold: float) -> None:
    p, _ = drawn(np.random.default_rng(n * k), n, k)
    inside = in_set(p, threshold)
    single = answered(inside)
    assert single.tolist() == [row.sum() == 1 for row in inside]
    assert np.array_equal(inside[single].argmax(axis=1), p[single].argmax(axis=1))


@pytest.mark.parametrize("wrong", [[[np.nan, 1.0]], [[1.5, -0.5]]])
def test_what_is_no_probability_is_refused(wrong: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="not a number from 0 to 1"):
        fit_abstention(np.array(wrong), np.zeros(1, np.int64), 0.9)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        fit_abstention(np.ones((3, 2)), np.zeros(2, np.int64), 0.9)


@pytest.mark.parametrize("values", [{"coverage": 1.0, "threshold": 0.5}, {"coverage": 0.9, "threshold": np.nan}])
def test_values_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Abstention"):
        Abstention(**values)
