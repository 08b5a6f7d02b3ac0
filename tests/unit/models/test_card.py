from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.config import Recipe
from assay.data.dataset import Dataset, from_arrays
from assay.models import card
from assay.models.abstention import Abstention
from assay.models.bundle import BundleMeta, Lineage, Parity
from assay.preprocess import Geometry

RECIPE = Recipe(backbone="resnet10t", augment=({"HorizontalFlip": {"p": 0.5}},))


def meta(labels: tuple[str, ...], **changes: Any) -> BundleMeta:
    lineage = {"git_commit": "c0ffee", "git_dirty": False, "versions": {"torch": "2.15.0", "numpy": "2.4.0"}}
    digests = {"data_digest": "d" * 64, "split_digest": "e" * 64, "config_digest": "f" * 64}
    return BundleMeta(
        name="demo",
        labels=labels,
        geometry=Geometry(8, "crop"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        temperature=1.5,
        opset=20,
        parity=Parity(max_abs_difference=2e-6, top1_agreement=1.0, images=1234, near_ties=5),
        lineage=Lineage(**{**lineage, **digests, **changes}),
    )


def dataset(folder: Path, labels: list[str], splits: list[str]) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    return from_arrays(images, labels, folder, splits=splits)


@pytest.fixture
def cracks(tmp_path: Path) -> Dataset:
    labels = ["crack", "crack", "crack", "sound", "sound"]
    return dataset(tmp_path, labels, ["train", "train", "test", "train", "validation"])


def test_tells_what_a_person_asks_first(cracks: Dataset) -> None:
    text = card.render(meta(cracks.labels), RECIPE, cracks)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[:4] == ["# demo", "## Model details", "## Intended use", "## Factors"]
    assert "cut to the central square, 8 x 8 pixels" in text
    assert "temperature 1.5 |" in text
    assert "1,234 images" in " ".join(text.split())
    assert "at most 2e-06 apart" in text
    assert "| augment | HorizontalFlip p 0.5 |" in text
    assert "| git commit | c0ffee |" in text
    assert "| torch | 2.15.0 |" in text


def test_tells_when_there_is_no_answer(cracks: Dataset) -> None:
    fitted = Abstention(coverage=0.95, threshold=0.9341)
    text = card.render(meta(cracks.labels).model_copy(update={"abstention": fitted}), RECIPE, cracks)
    assert "unless exactly one label has a probability of 0.9341 or more" in text
    assert "for a coverage of 0.95)" in text
    assert "always answers" not in text
    assert "always answers" in card.render(meta(cracks.labels), RECIPE, cracks)


def test_counts_images_by_class_and_split(cracks: Dataset) -> None:
    text = card.render(meta(cracks.labels), RECIPE, cracks)
    assert "| crack | 2 | 0 | 1 |\n| sound | 1 | 1 | 0 |\n| all | 3 | 1 | 1 |" in text


def test_is_the_same_text_every_time(cracks: Dataset) -> None:
    assert card.render(meta(cracks.labels), RECIPE, cracks) == card.render(meta(cracks.labels), RECIPE, cracks)


def test_changes_in_no_commit_are_told(cracks: Dataset) -> None:
    text = card.render(meta(cracks.labels, git_dirty=True), RECIPE, cracks)
    assert "c0ffee (with changes)" in text
    assert "does not make this model again" in text


def test_many_classes_are_cut_short_and_counted(tmp_path: Path) -> None:
    labels = [f"class{index:04d}" for index in range(card.MAX_ROWS + 20)]
    text = card.render(meta(tuple(labels)), RECIPE, dataset(tmp_path, labels, ["train"] * len(labels)))
    assert "| and 20 more |" in text
    assert "class0119" not in text
    assert "| all | 120 | 0 | 0 |" in text


def test_a_label_is_no_markup(tmp_path: Path) -> None:
    labels = ["<script>", "a|b", "new\nline"]
    text = card.render(meta(tuple(labels)), RECIPE, dataset(tmp_path, labels, ["train"] * 3))
    assert "| &lt;script> |" in text
    assert "| a\\|b |" in text
    assert "| new line |" in text


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("/home/ann/photos", "photos"),
        ("/home/ann/photos/", "photos"),
        ("photos/cracks.zip", "cracks.zip"),
        ("C:\\Users\\ann\\photos", "photos"),
        ("file:///home/ann/photos.csv", "photos.csv"),
        (".", "."),
        ("s3://bucket/cracks", "s3://bucket/cracks"),
        ("s3://key:secret@bucket/cracks?token=t", "s3://bucket/cracks"),
        ("synthetic://concrete?count=10&seed=7", "synthetic://concrete?count=10&seed=7"),
    ],
)
def test_a_source_is_named_without_what_is_private(uri: str, public: str) -> None:
    assert card.public_source(uri) == public


def test_a_weights_file_is_named_without_its_folder(cracks: Dataset) -> None:
    recipe = Recipe(backbone="resnet10t", weights="/home/ann/start.safetensors")
    text = card.render(meta(cracks.labels), recipe, cracks)
    assert "started from `start.safetensors`" in text
    assert "/home" not in text
