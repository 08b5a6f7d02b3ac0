import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.models.calibration import TEMPERATURES, fit_temperature, negative_log_likelihood


def draw(n: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [n, classes], and targets drawn from softmax(logits / sharpness): that is the true temperature."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, (n, classes))
    targets = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    return (true * sharpness).astype(np.float32), targets


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 10])
def test_finds_the_temperature_that_the_targets_were_drawn_with(sharpness: float, classes: int) -> None:
    logits, targets = draw(20_000, classes, sharpness)
    assert fit_temperature(logits, targets) == pytest.approx(sharpness, rel=0.05)


@settings(max_examples=40)
@given(st.integers(2, 200), st.integers(2, 5), st.floats(0.05, 20), st.integers(0, 1000))
def test_no_temperature_within_the_bounds_is_better(n: int, classes: int, sharpness: float, seed: int) -> None:
    logits, targets = draw(n, classes, sharpness, seed)
    targets[:2] = 0, 1
    temperature = fit_temperature(logits, targets)
    least = negative_log_likelihood(logits, targets, temperature)
    grid = np.geomspace(*TEMPERATURES, 50)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    assert least <= min(negative_log_likelihood(logits, targets, t) for t in grid) + 1e-6


def test_order_of_the_images_does_not_matter() -> None:
    logits, targets = draw(500, 3, 1.7)
    assert fit_temperature(logits, targets) == fit_temperature(logits[::-1], targets[::-1])


def test_a_split_without_a_mistake_gets_the_lower_bound() -> None:
    targets = np.array([0, 1, 0, 1])
    assert fit_temperature(np.eye(2, dtype=np.float32)[targets], targets) == TEMPERATURES[0]


def test_a_split_of_mistakes_gets_the_upper_bound() -> None:
    targets = np.array([0, 1, 0, 1])
    assert fit_temperature(20 * np.eye(2, dtype=np.float32)[1 - targets], targets) == TEMPERATURES[1]


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.array([[3, 1], [2, 0]], np.float32), np.array([0, 0])),
        (np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])),
        (np.zeros((3, 1), np.float32), np.zeros(3, np.int64)),
        (np.zeros((0, 2), np.float32), np.zeros(0, np.int64)),
        (np.array([[5000, 0], [0, 5000]], np.float32), np.array([0, 1])),
    ],
    ids=["one class", "all the same", "one label", "no image", "certain and right"],
)
def test_logits_that_determine_nothing_stay_as_they_are(logits: np.ndarray, targets: np.ndarray) -> None:
    assert fit_temperature(logits, targets) == 1.0


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38], [3e38, -3e38]], np.float32)
    assert fit_temperature(logits, np.array([0, 1, 1])) == TEMPERATURES[1]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        fit_temperature(np.array([[0, wrong], [1, 0]], np.float32), np.array([0, 1]))


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        fit_temperature(np.zeros((3, 2), np.float32), np.array([0, 1]))


def test_likelihood_is_that_of_the_softmax() -> None:
    logits = np.array([[0, np.log(3)]], np.float32)
    assert negative_log_likelihood(logits, np.array([1]), 1.0) == pytest.approx(-np.log(0.75))
    assert negative_log_likelihood(logits, np.array([0]), 0.5) == pytest.approx(-np.log(0.1))
