"""A data set that a tiny model learns in seconds: noise, in one class with a dark stripe."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.config import Recipe
from assay.data.dataset import Dataset, from_arrays

SIZE = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on many threads, and very much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def striped(folder: Path, images: int = 120, labels: Sequence[str] = ("crack", "intact"), seed: int = 0) -> Dataset:
    """Of ten images in a row seven are for training, two for validation, one for test; labels take turns."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 200, (images, SIZE, SIZE, 3)).astype(np.uint8)
    names = [labels[index % len(labels)] for index in range(images)]
    for index, name in enumerate(names):
        if name == "crack":
            start = rng.integers(4, SIZE - 8)
            pixels[index, :, start : start + 4] //= 4
    splits = [
        ("train", "validation", "test")[(index // 2 % 10 >= 7) + (index // 2 % 10 >= 9)] for index in range(images)
    ]
    return from_arrays(pixels, names, folder, splits=splits)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return striped(tmp_path_factory.mktemp("striped"))


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """`striped`, into a folder of the test's own."""
    return lambda **options: striped(tmp_path / "shards", **options)


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A recipe for the striped images in which nothing is measured; keywords replace what is in it."""

    def make(**changes: Any) -> Recipe:
        plain = {
            "backbone": "test_byobnet",
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 4e-3,
            "precision": "fp32",
            "channels_last": False,
        }
        return Recipe(**(plain | changes))

    return make
