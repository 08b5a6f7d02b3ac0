import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from assay.evaluation.metrics import MAX_CONFUSION, MOST_CONFUSED, Metrics, _areas, measure, summarise
from assay.evaluation.predictions import tabulate

LABELS = ("crack", "joint", "sound")


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that measure hundreds of samples and do not look at the calibration."""
    monkeypatch.setattr("assay.evaluation.calibration.RESAMPLES", 2)


def answers(n: int, k: int, seed: int = 0, skill: float = 2.0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    targets = generator.integers(k, size=n)
    odds = np.exp(generator.normal(0, 1, (n, k)) + skill * np.eye(k)[targets])
    return targets, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def certain(k: int, predicted: Sequence[int]) -> NDArray[np.float32]:
    return np.eye(k, dtype=np.float32)[list(predicted)]


def numbers(metrics: Metrics) -> list[float | None]:
    """Every estimate's value and ends."""
    of_classes = [e for c in metrics.classes for e in (c.precision, c.recall, c.f1)]
    return [x for e in (*metrics.headline().values(), *of_classes) for x in (e.value, e.low, e.high)]


@pytest.mark.parametrize("k", [2, 3, 7])
def test_agrees_with_scikit_learn(k: int) -> None:
    targets, p = answers(400, k)
    predicted = p.argmax(axis=1)
    metrics = summarise([f"c{i}" for i in range(k)], targets, p)
    precision, recall, f1, support = sk.precision_recall_fscore_support(targets, predicted)
    area = sk.roc_auc_score(targets, p[:, 1] if k == 2 else p / p.sum(axis=1, keepdims=True), multi_class="ovr")
    assert metrics.accuracy.value == pytest.approx(sk.accuracy_score(targets, predicted))
    assert metrics.balanced_accuracy.value == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
    assert metrics.auroc.value == pytest.approx(area)
    assert [c.precision.value for c in metrics.classes] == pytest.approx(list(precision))
    assert [c.recall.value for c in metrics.classes] == pytest.approx(list(recall))
    assert [c.f1.value for c in metrics.classes] == pytest.approx(list(f1))
    assert [c.support for c in metrics.classes] == list(support)
    assert metrics.confusion == tuple(map(tuple, sk.confusion_matrix(targets, predicted).tolist()))


def test_all_right() -> None:
    metrics = summarise(LABELS, np.array([0, 1, 2, 2]), certain(3, [0, 1, 2, 2]))
    assert (metrics.accuracy.value, metrics.auroc.value, metrics.calibration_error.value) == (1, 1, 0)
    assert metrics.accuracy.low is not None
    assert metrics.accuracy.low < 0.6
    assert metrics.confused == ()


def test_all_wrong() -> None:
    metrics = summarise(LABELS, np.array([0, 1, 2]), certain(3, [1, 2, 0]))
    assert (metrics.accuracy.value, metrics.balanced_accuracy.value, metrics.calibration_error.value) == (0, 0, 1)
    assert metrics.accuracy.high is not None
    assert metrics.accuracy.high > 0.5
    assert [c.f1.value for c in metrics.classes] == [0, 0, 0]


def test_one_example() -> None:
    metrics = summarise(LABELS, np.array([1]), certain(3, [1]))
    assert metrics.accuracy.value == 1
    assert (metrics.auroc.value, metrics.auroc.note) == (None, "it takes images of two classes")
    assert (metrics.classes[0].recall.value, metrics.classes[0].recall.note) == (None, "no test image of this class")
    assert (metrics.classes[0].precision.value, metrics.classes[0].f1.value) == (None, None)


def test_an_absent_class_is_left_out_and_said_so() -> None:
    metrics = summarise(LABELS, np.array([0, 0, 1, 1]), certain(3, [0, 0, 1, 2]))
    assert metrics.balanced_accuracy.value == 0.75
    assert metrics.balanced_accuracy.note == "1 class without a test image left out"
    assert metrics.classes[2].precision.value == 0
    assert metrics.classes[2].recall.value is None


def test_no_example() -> None:
    metrics = summarise(LABELS, np.array([], int), np.empty((0, 3), np.float32))
    assert set(numbers(metrics)) == {None}
    assert metrics.accuracy.note == "there are no images"
    assert metrics.scalars() == {}


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_leaves_nothing_measured(poison: float) -> None:
    targets, p = answers(20, 3)
    p[4, 1] = poison
    metrics = summarise(LABELS, targets, p)
    assert set(numbers(metrics)) == {None}
    assert metrics.accuracy.note == "1 of 20 images have probabilities that are not finite"


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0, 30))
@settings(max_examples=60)
def test_json_holds_no_nan_and_every_value_its_interval(n: int, k: int, seed: int, skill: float) -> None:
    targets, p = answers(n, k, seed, skill)
    metrics = summarise([f"c{i}" for i in range(k)], targets, p)
    json.dumps(metrics.model_dump(mode="json"), allow_nan=False)
    values = np.array([x for x in numbers(metrics) if x is not None]).reshape(-1, 3)
    assert np.all((values[:, 1] >= 0) & (values[:, 1] <= values[:, 0] + 1e-12))
    assert np.all((values[:, 0] <= values[:, 2] + 1e-12) & (values[:, 2] <= 1))


@given(st.permutations(range(40)))
@settings(max_examples=20)
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    targets, p = answers(40, 3)
    p = np.round(p, 1)  # ties, also in confidence
    first, second = summarise(LABELS, targets, p), summarise(LABELS, targets[order], p[order])
    assert second.accuracy == first.accuracy
    assert second.auroc.value == pytest.approx(first.auroc.value)
    assert second.calibration_error.value == pytest.approx(first.calibration_error.value)
    assert [b.count for b in second.reliability] == [b.count for b in first.reliability]


def test_the_same_inputs_give_the_same_numbers() -> None:
    targets, p = answers(300, 3)
    assert summarise(LABELS, targets, p) == summarise(LABELS, targets, p)


def test_many_classes_stay_linear() -> None:
    k = MAX_CONFUSION + 1
    targets = np.arange(2 * k) % k
    metrics = summarise([f"c{i}" for i in range(k)], targets, certain(k, (targets + 1) % k))
    assert metrics.confusion is None
    assert len(metrics.classes) == k
    assert len(metrics.confused) == MOST_CONFUSED


def test_the_most_frequent_mistakes_come_first() -> None:
    targets = np.array([0, 0, 0, 1, 1, 2])
    metrics = summarise(LABELS, targets, certain(3, [1, 1, 0, 0, 1, 0]))
    found = [(c.label, c.predicted, c.count) for c in metrics.confused]
    assert found == [("crack", "joint", 2), ("joint", "crack", 1), ("sound", "crack", 1)]


def test_scalars_are_plain_numbers_for_a_tracker() -> None:
    scalars = summarise(LABELS, *answers(50, 3)).scalars()
    assert set(scalars) == {
        f"{name}{end}"
        for name in ("accuracy", "balanced_accuracy", "auroc", "calibration_error")
        for end in ("", "_low", "_high")
    }
    assert all(isinstance(value, float) for value in scalars.values())


def test_higher_confidence_is_wider() -> None:
    targets, p = answers(200, 3)
    narrow, wide = (summarise(LABELS, targets, p, confidence) for confidence in (0.8, 0.99))
    for name, estimate in narrow.headline().items():
        other = wide.headline()[name]
        assert (other.low or 0) <= (estimate.low or 0)
        assert (estimate.high or 0) <= (other.high or 0)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("seed", [1, 2])
def test_macro_auroc_covers_what_it_says(seed: int) -> None:
    """Three unbalanced classes; the truth from a large sample."""
    targets, p = answers(200_000, 3, seed=99)
    truth = summarise(LABELS, targets, p).auroc.value or 0
    covered = 0
    for i in range(100):
        few = summarise(LABELS, *answers(150, 3, seed=1000 * seed + i)).auroc
        covered += (few.low or 0) <= truth <= (few.high or 0)
    assert covered >= 90


def test_the_variance_of_the_mean_area_is_that_of_resamples() -> None:
    targets, p = answers(400, 3, seed=5)
    generator = np.random.default_rng(6)
    _, variance = _areas(targets, p, np.arange(3))
    draws = (generator.integers(400, size=400) for _ in range(500))
    means = [_areas(targets[drawn], p[drawn], np.arange(3))[0].mean() for drawn in draws]
    assert variance == pytest.approx(np.var(means), rel=0.2)


@pytest.mark.usefixtures("few_resamples")
def test_f1_covers_what_it_says() -> None:
    targets, p = answers(200_000, 2, seed=99)
    truth = summarise(("no", "yes"), targets, p).classes[1].f1.value or 0
    covered = 0
    for i in range(200):
        few = summarise(("no", "yes"), *answers(150, 2, seed=i)).classes[1].f1
        covered += (few.low or 0) <= truth <= (few.high or 0)
    assert covered >= 183


def test_measures_a_table_of_predictions() -> None:
    targets, p = answers(30, 3)
    names = [LABELS[t] for t in targets]
    uris = [f"{i}.jpg" for i in range(30)]
    rows = pa.table({"uri": uris, "sha256": uris, "label": names, "group": uris})
    table = tabulate(rows, LABELS, p, [1.0] * 30)
    assert measure(table, LABELS) == summarise(LABELS, targets, p)


@pytest.mark.parametrize(
    ("targets", "p"),
    [
        (np.array([0, 1]), np.ones((2, 2))),
        (np.array([0]), np.ones((2, 3))),
        (np.array([0, 3]), np.ones((2, 3))),
        (np.array([0, -1]), np.ones((2, 3))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(targets: NDArray[np.int64], p: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="must be"):
        summarise(LABELS, targets, p)
