import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

from assay.errors import ConfigError
from assay.training.augment import Augmenter

FLIPS = ({"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}})


def noise(images: int = 8, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)


def augmented(augment: Any, pixels: np.ndarray, seed: int = 1) -> np.ndarray:
    changed = pixels.copy()
    Augmenter(augment, pixels.shape[1])(changed, (seed,))
    return changed


def test_nothing_is_changed_where_nothing_is_asked_for() -> None:
    assert np.array_equal(augmented((), noise()), noise())


def test_each_image_is_changed_in_its_own_way() -> None:
    one = noise(1).repeat(32, axis=0)
    assert len({image.tobytes() for image in augmented(FLIPS, one)}) == 4


def test_same_seed_same_pixels() -> None:
    varied = (*FLIPS, {"RandomBrightnessContrast": {"p": 0.5}}, {"GaussNoise": {"p": 0.5}})
    augment = Augmenter(varied, 16)
    first, second, other = noise(), noise(), noise()
    augment(first, (3, 1))
    augment(other, (3, 2))
    augment(second, (3, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_transforms_do_not_happen_in_step() -> None:
    corners = np.zeros((400, 2, 2, 3), np.uint8)
    corners[:, 0, 0] = 1
    Augmenter(FLIPS, 2)(corners, (0,))
    places = Counter(tuple(np.argwhere(image[..., 0])[0]) for image in corners)
    assert len(places) == 4
    assert min(places.values()) > 60


def test_combinations_hold_transforms() -> None:
    one_of = ({"OneOf": {"transforms": [{"HorizontalFlip": {"p": 1}}, {"VerticalFlip": {"p": 1}}], "p": 1}},)
    pixels = noise(64)
    flipped = {
        "across" if np.array_equal(new, old[:, ::-1]) else "down" if np.array_equal(new, old[::-1]) else "neither"
        for new, old in zip(augmented(one_of, pixels), pixels, strict=True)
    }
    assert flipped == {"across", "down"}


def test_travels_to_a_worker_process() -> None:
    augment = Augmenter(FLIPS, 16)
    here, there = noise(), noise()
    augment(here, (5,))
    pickle.loads(pickle.dumps(augment))(there, (5,))
    assert np.array_equal(here, there)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"HorizontalFilp": {}}, "no 'HorizontalFilp'; did you mean 'HorizontalFlip'?"),
        ({"Compose3": {}}, "no 'Compose3'"),
        ({"HorizontalFlip": {"prob": 0.5}}, "HorizontalFlip takes no 'prob'"),
        ({"RandomBrightnessContrast": {"brightnes_limit": 0.1}}, "did you mean 'brightness_limit'?"),
        ({"RandomBrightnessContrast": {"brightness_limit": "much"}}, "RandomBrightnessContrast: .*brightness_limit"),
        ({"HorizontalFlip": {"p": 2}}, "HorizontalFlip: .*less than or equal to 1"),
        ({"RandomCrop": {}}, "RandomCrop: "),
        ({"HorizontalFlip": {}, "VerticalFlip": {}}, "one has HorizontalFlip, VerticalFlip"),
        ({}, "one has nothing"),
        ({"OneOf": {"transforms": [{"Blurr": {}}]}}, "no 'Blurr'; did you mean 'Blur'?"),
        ({"CenterCrop": {"height": 8, "width": 8, "p": 0.01}}, r"makes uint8 \[8, 8, 3\] of uint8 \[16, 16, 3\]"),
        ({"Normalize": {"p": 0.01}}, r"makes float32 .*normalisation is done afterwards"),
        ({"HorizontalFlip": [0.5]}, "HorizontalFlip: its arguments are a mapping"),
        ({"OneOf": {"transforms": "Blur"}}, "each entry is one transform"),
        ({"RandomCrop": {"height": 99, "width": 99}}, "does not work on 16 px images"),
        ({"HorizontalFlip": None}, "HorizontalFlip: its arguments are a mapping"),
    ],
)
def test_what_cannot_work_is_refused_before_training(augment: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Augmenter((augment,), 16)
    assert "\n" not in str(caught.value)
