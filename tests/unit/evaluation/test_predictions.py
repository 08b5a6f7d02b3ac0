from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assay.data.dataset import Dataset, from_arrays
from assay.errors import BundleError
from assay.evaluation.predictions import PREDICTIONS, class_ids, predict, probabilities, tabulate
from assay.models.predictor import MAX_BATCH

from toybundle import LABELS, SIZE, expected, pixels, toy_bundle


def dataset(folder: Path, n: int, splits: list[str] | None = None) -> Dataset:
    labels = [LABELS[i % 3] for i in range(n)]
    return from_arrays(pixels(n), labels, folder / "shards", splits=splits or ["train", *["test"] * (n - 1)])


def test_says_of_each_image_what_the_model_says(tmp_path: Path) -> None:
    n = MAX_BATCH + 7  # more than a batch, and not a multiple of it
    subset = dataset(tmp_path, n + 1).subset("test")
    table = predict(toy_bundle(tmp_path / "bundle"), subset)
    p = expected(subset.read(np.arange(n)))
    assert table.schema == PREDICTIONS
    assert probabilities(table, 3) == pytest.approx(p, abs=1e-6)
    assert table["predicted"].to_pylist() == [LABELS[i] for i in p.argmax(axis=1)]
    for name in ("uri", "sha256", "label", "group"):
        assert table[name].to_pylist() == subset.table[name].to_pylist()


def test_latency_is_the_batch_over_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(step=0.32)  # every look at it finds 0.32 s gone
    monkeypatch.setattr("assay.evaluation.predictions.time.perf_counter", lambda: next(clock))
    table = predict(toy_bundle(tmp_path / "bundle"), dataset(tmp_path, MAX_BATCH + 9).subset("test"))
    assert table["latency_ms"].to_pylist() == pytest.approx([5.0] * MAX_BATCH + [40.0] * 8)


def test_an_empty_split_gives_an_empty_table(tmp_path: Path) -> None:
    subset = dataset(tmp_path, 3, ["train", "train", "validation"]).subset("test")
    table = predict(toy_bundle(tmp_path / "bundle"), subset)
    assert (table.num_rows, table.schema) == (0, PREDICTIONS)


def test_images_of_another_geometry_are_refused(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "bundle", size=2 * SIZE)
    with pytest.raises(BundleError, match="takes 8 px squash, the split is stored at 4 px squash"):
        predict(bundle, dataset(tmp_path, 4).subset("test"))


def rows(labels: list[str | None]) -> pa.Table:
    names = [str(i) for i in range(len(labels))]
    return pa.table({"uri": names, "sha256": names, "label": pa.array(labels, pa.string()), "group": names})


def test_probabilities_come_back_as_they_went_in() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1], 9).astype(np.float32)
    table = tabulate(rows(["a"] * 9), ("a", "b"), p, [1.0] * 9)
    assert np.array_equal(probabilities(table, 2), p)
    assert np.array_equal(probabilities(table.slice(3, 4), 2), p[3:7])


def test_probabilities_of_another_length_are_refused() -> None:
    table = tabulate(rows(["a"]), ("a", "b"), np.array([[0.5, 0.5]], np.float32), [1.0])
    with pytest.raises(ValueError, match="p must hold 3 numbers"):
        probabilities(table, 3)


def test_a_label_that_is_none_has_no_class_id() -> None:
    assert class_ids(rows(["b", "a", "z", None]), ("a", "b")).tolist() == [1, 0, -1, -1]
