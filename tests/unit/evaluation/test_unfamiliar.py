import numpy as np
import pytest

from assay.evaluation.unfamiliar import KINDS, draw, kind_of

from toybundle import pixels

MATERIAL = pixels(1, 40)[0]


@pytest.mark.parametrize("index", range(2 * len(KINDS)))
@pytest.mark.parametrize("size", [4, 17, 40])
def test_every_image_has_the_size_of_the_data(index: int, size: int) -> None:
    image = draw(index, pixels(1, size)[0])
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)


def test_the_same_number_gives_the_same_image_and_another_number_another() -> None:
    images = [draw(index, MATERIAL) for index in range(5 * len(KINDS))]
    assert all(np.array_equal(image, draw(index, MATERIAL)) for index, image in enumerate(images))
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_kinds_come_in_turn() -> None:
    assert [kind_of(index) for index in range(len(KINDS) + 1)] == [*KINDS, next(iter(KINDS))]


def test_shuffled_patches_keep_the_pixels_and_not_their_places() -> None:
    index = list(KINDS).index("shuffled")
    shuffled = draw(index, MATERIAL)
    assert not np.array_equal(shuffled, MATERIAL)
    assert np.array_equal(np.sort(shuffled.reshape(-1, 3), axis=0), np.sort(MATERIAL.reshape(-1, 3), axis=0))


def test_some_are_grey_and_some_are_not() -> None:
    images = [draw(index, MATERIAL) for index in range(64) if kind_of(index) != "shuffled"]
    grey = [bool((image == image[..., :1]).all()) for image in images]
    assert 0.25 < np.mean(grey) < 0.75
