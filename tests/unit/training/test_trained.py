import json
from dataclasses import replace
from pathlib import Path

import pytest

from assay import digests
from assay.config import Recipe
from assay.errors import AssayError
from assay.preprocess import Geometry
from assay.training import Trained


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    made = Trained(
        folder=tmp_path,
        weights_digest=digests.of_file(weights),
        backbone="resnet10t",
        labels=("Größe", "intact"),
        geometry=Geometry(32, "crop"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.1 + 0.2),
        recipe=Recipe(backbone="resnet10t", augment=({"HorizontalFlip": {"p": 0.5}},), channels_last=True),
        data_digest="d",
        split_digest="s",
        best_epoch=1,
        history=[{"epoch": 1, "val_loss": 0.123456789012345}],
        precision="bf16",
        channels_last=True,
        wait_share=0.01,
        images_per_s=123.4,
        seconds=5.6,
    )
    made.save()
    return made


def change(folder: Path, **changes: object) -> None:
    path = folder / "trained.json"
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def test_comes_back_as_it_was(trained: Trained) -> None:
    assert Trained.load(trained.folder) == trained


def test_what_auto_came_to_is_known(trained: Trained) -> None:
    assert (trained.recipe.precision, trained.settled.precision) == ("auto", "bf16")
    assert Recipe(**trained.settled.model_dump()) == trained.settled


def test_may_be_moved(trained: Trained, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("trained.json", "weights.safetensors"):
        (tmp_path / name).rename(moved / name)
    assert Trained.load(moved) == replace(trained, folder=moved)


@pytest.mark.parametrize(
    "changes", [{"format": 2}, {"labels": None}, {"mean": [1, 2]}, {"best_epoch": "x"}, {"recipe": {"epochs": 0}}]
)
def test_what_training_did_not_write_is_refused(trained: Trained, changes: dict[str, object]) -> None:
    change(trained.folder, **changes)
    with pytest.raises(AssayError, match=r"trained\.json: no trained model .*train again"):
        Trained.load(trained.folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{"])
def test_a_damaged_file_is_refused(trained: Trained, content: str) -> None:
    (trained.folder / "trained.json").write_text(content)
    with pytest.raises(AssayError, match="no trained model"):
        Trained.load(trained.folder)


def test_other_weights_are_refused(trained: Trained) -> None:
    (trained.folder / "weights.safetensors").write_bytes(b"weighty")
    with pytest.raises(AssayError, match="not the weights"):
        Trained.load(trained.folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no trained model"):
        Trained.load(tmp_path)
