import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from assay.evaluation import label_errors
from assay.evaluation.label_errors import suspects
from assay.evaluation.predictions import tabulate

LABELS = ("crack", "joint", "sound")


def table(targets: NDArray[np.int64], truth: NDArray[np.int64], k: int = 3, sure: float = 0.95) -> pa.Table:
    """Images of classes `truth`, known with the probability `sure`, that are labelled `targets`."""
    labels = LABELS if k == 3 else tuple(f"c{i:04d}" for i in range(k))
    names = [f"{i:03d}.jpg" for i in range(len(targets))]
    rows = pa.table({"uri": names, "sha256": names, "label": [labels[t] for t in targets], "group": names})
    p = np.full((len(targets), k), (1 - sure) / (k - 1), np.float32)
    p[np.arange(len(targets)), truth] = sure
    return tabulate(rows, labels, p, [1.0] * len(targets))


def test_finds_the_labels_that_were_swapped() -> None:
    truth = np.arange(120) % 3
    targets = truth.copy()
    targets[[30, 61]] = [1, 2]
    found = suspects(table(targets, truth), LABELS)
    assert {(s.row, s.uri, s.label, s.suggested) for s in found} == {
        (30, "030.jpg", "joint", "crack"),
        (61, "061.jpg", "sound", "joint"),
    }
    assert found[0].suggested_probability == pytest.approx(0.95)
    assert found[0].label_probability == pytest.approx(0.025)


def test_the_most_suspicious_comes_first() -> None:
    truth = np.arange(120) % 3
    targets = truth.copy()
    targets[[30, 60]] = 1
    answers = table(targets, truth)
    p = np.array(answers["p"].to_pylist(), np.float32)
    p[60] = [0.99, 0.005, 0.005]
    found = suspects(tabulate(answers, LABELS, p, [1.0] * 120), LABELS)
    assert [s.row for s in found] == [60, 30]


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_images_raise_no_suspicion_and_no_error(n: int) -> None:
    assert suspects(table(np.arange(n) % 3, np.arange(n) % 3), LABELS) == ()


def test_one_class_alone_cannot_be_confused() -> None:
    assert suspects(table(np.zeros(20, int), np.ones(20, int)), LABELS) == ()


def test_a_class_without_images_is_left_out() -> None:
    truth = np.arange(80) % 2 * 2
    targets = truth.copy()
    targets[10] = 2
    assert [s.uri for s in suspects(table(targets, truth), LABELS)] == ["010.jpg"]


def test_cleanlab_gets_the_classes_that_occur_and_their_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    monkeypatch.setattr("cleanlab.filter.find_label_issues", lambda ids, p, **_: given.append((ids, p)) or [])
    truth = np.arange(80) % 2 * 2
    suspects(table(truth, truth), LABELS)
    ((ids, p),) = given
    assert ids.tolist() == [0, 1] * 40
    assert p.shape == (80, 2)
    assert p.sum(axis=1) == pytest.approx(np.ones(80))


def test_what_is_not_finite_raises_no_suspicion() -> None:
    truth = np.arange(30) % 3
    assert suspects(table(np.roll(truth, 1), truth, sure=float("nan")), LABELS) == ()


def test_many_classes_take_the_linear_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors, "FEW_CLASSES", 4)
    truth = np.arange(400) % 5
    targets = truth.copy()
    targets[7] = 0
    labels = tuple(f"c{i:04d}" for i in range(5))
    assert [s.uri for s in suspects(table(targets, truth, k=5), labels)] == ["007.jpg"]


def test_the_same_answers_raise_the_same_suspicions() -> None:
    generator = np.random.default_rng(0)
    answers = table(generator.integers(3, size=200), generator.integers(3, size=200))
    assert suspects(answers, LABELS) == suspects(answers, LABELS) != ()
