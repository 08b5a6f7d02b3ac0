import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.data import manifest, shards
from assay.data.dataset import Dataset, from_arrays
from assay.errors import DataError
from assay.preprocess import Geometry

SIZE = 16


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def dataset(folder: Path, n: int = 20, rows_a_shard: int = 6) -> Dataset:
    labels = [("b", "a")[i % 2] for i in range(n)]
    splits = [("train", "validation", "test")[i % 3] for i in range(n)]
    return from_arrays(images(n), labels, folder, splits=splits, shard_bytes=shards.file_bytes(rows_a_shard, SIZE))


@given(indices=st.lists(st.integers(0, 19), max_size=40), rows_a_shard=st.integers(1, 25))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_gives_the_wanted_images_in_the_wanted_order(
    indices: list[int], rows_a_shard: int, tmp_path: Path
) -> None:
    whole = from_arrays(
        images(20), ["a"] * 20, tmp_path, splits=["train"] * 20, shard_bytes=shards.file_bytes(rows_a_shard, SIZE)
    )
    read = whole.subset("train").read(np.array(indices, dtype=np.int64))
    assert read.dtype == np.uint8
    assert np.array_equal(read, images(20)[np.array(indices, dtype=np.int64)])


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    subset = dataset(tmp_path).subset("train")
    subset.read(np.array([0]))[:] = 0
    assert np.array_equal(subset.read(np.array([0]))[0], images(20)[0])


def test_a_subset_has_the_rows_of_its_split_in_order_with_class_ids(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    subset = whole.subset("validation")
    assert whole.labels == ("a", "b")
    assert subset.table["uri"].to_pylist() == [f"{i:08d}" for i in range(1, 20, 3)]
    assert subset.targets.dtype == np.int64
    assert subset.targets.tolist() == [(1, 0)[i % 2] for i in range(1, 20, 3)]
    assert len(subset) == 7


def test_a_subset_leaves_out_quarantined_rows(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    faults = ["broken" if i == 1 else "" for i in range(20)]
    column = manifest.MANIFEST.names.index("fault")
    damaged = Dataset(
        whole.manifest.set_column(column, "fault", [faults]), whole.shards, whole.geometry, whole.labels, whole.source
    )
    assert damaged.subset("validation").table["uri"].to_pylist() == [f"{i:08d}" for i in range(4, 20, 3)]
    assert damaged.digest != whole.digest


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no split 'val'"):
        dataset(tmp_path).subset("val")


def test_a_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    narrow = Dataset(whole.manifest, whole.shards, whole.geometry, ("a",), whole.source)
    with pytest.raises(DataError, match="not among"):
        narrow.subset("train")


def test_mean_and_std_are_those_of_the_training_split(tmp_path: Path) -> None:
    train = images(20)[::3] / 255
    whole = dataset(tmp_path)
    assert whole.mean == pytest.approx(train.mean((0, 1, 2)), abs=1e-12)
    assert whole.std == pytest.approx(train.std((0, 1, 2)), abs=1e-9)


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    whole = dataset(tmp_path / "shards")
    whole.save(tmp_path / "saved")
    loaded = Dataset.load(tmp_path / "saved")
    assert loaded.manifest.equals(whole.manifest)
    assert (loaded.digest, loaded.split_digest) == (whole.digest, whole.split_digest)
    assert (loaded.shards, loaded.geometry, loaded.labels) == (whole.shards, whole.geometry, whole.labels)
    assert (loaded.source, loaded.mean, loaded.std) == (whole.source, whole.mean, whole.std)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["dataset.json", "manifest.parquet"]


def test_shards_that_have_moved_can_be_named(tmp_path: Path) -> None:
    dataset(tmp_path / "shards").save(tmp_path / "saved")
    (tmp_path / "shards").rename(tmp_path / "moved")
    loaded = Dataset.load(tmp_path / "saved", shards=tmp_path / "moved")
    assert np.array_equal(loaded.subset("train").read(np.array([1]))[0], images(20)[3])


def test_a_manifest_that_is_not_the_one_saved_is_refused(tmp_path: Path) -> None:
    dataset(tmp_path / "shards").save(tmp_path / "saved")
    manifest.write(dataset(tmp_path / "other", n=8).manifest, tmp_path / "saved" / "manifest.parquet")
    with pytest.raises(DataError, match="not the manifest"):
        Dataset.load(tmp_path / "saved")


@pytest.mark.parametrize("document", ["", "[]", "{}", '{"format": 99}'])
def test_a_document_of_another_format_is_refused(document: str, tmp_path: Path) -> None:
    dataset(tmp_path / "shards").save(tmp_path / "saved")
    (tmp_path / "saved" / "dataset.json").write_text(document, encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset\.json"):
        Dataset.load(tmp_path / "saved")


def test_the_digest_sees_the_geometry(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    other = Dataset(whole.manifest, whole.shards, Geometry(SIZE, "pad"), whole.labels, whole.source)
    assert other.digest != whole.digest


def test_a_missing_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    subset = dataset(tmp_path).subset("train")
    name = subset.table["shard"][0].as_py()
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name):
        subset.read(np.array([0]))


@pytest.mark.parametrize("keep", [0, 10, 128, 3000])
def test_a_shard_that_is_cut_short_is_an_error(keep: int, tmp_path: Path) -> None:
    subset = dataset(tmp_path).subset("train")
    os.truncate(tmp_path / subset.table["shard"][0].as_py(), keep)
    with pytest.raises(DataError, match="scan again"):
        subset.read(np.array([0]))


def test_a_shard_that_is_cut_short_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    subset = dataset(tmp_path).subset("train")
    subset.read(np.array([0]))
    os.truncate(tmp_path / subset.table["shard"][0].as_py(), 200)
    with pytest.raises(DataError, match="cut short at row 3"):
        subset.read(np.array([1]))


def test_a_shard_of_another_size_of_image_is_an_error(tmp_path: Path) -> None:
    subset = dataset(tmp_path).subset("train")
    np.save(tmp_path / subset.table["shard"][0].as_py(), np.zeros((6, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="16 x 16"):
        subset.read(np.array([0]))


def test_few_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MOST_OPEN", 3)
    whole = from_arrays(images(20), ["a"] * 20, tmp_path, splits=["train"] * 20, shard_bytes=shards.file_bytes(1, SIZE))
    subset, before = whole.subset("train"), len(list(Path("/dev/fd").iterdir()))
    assert np.array_equal(subset.read(np.arange(20)), images(20))
    assert len(list(Path("/dev/fd").iterdir())) == before + 3


def test_a_subset_travels_to_another_process(tmp_path: Path) -> None:
    subset = dataset(tmp_path).subset("train")
    expected = subset.read(np.arange(4))
    assert np.array_equal(pickle.loads(pickle.dumps(subset)).read(np.arange(4)), expected)


def test_the_document_can_be_read_by_a_person(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    whole.save(tmp_path)
    document = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert document["labels"] == ["a", "b"]
    assert document["digest"] == whole.digest
