"""Progressive resizing: sizes grow to the whole one, and images keep what they show."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.training.sizes import shrunk, size_at


@given(st.integers(1, 60), st.sampled_from([32, 64, 96, 128]), st.integers(64, 256))
def test_sizes_never_shrink_and_the_last_epoch_sees_the_whole_size(epochs: int, first: int, whole: int) -> None:
    sizes = [size_at(epoch, epochs, first, whole) for epoch in range(epochs)]
    assert sizes == sorted(sizes)
    assert min(first, whole) <= sizes[0]
    assert sizes[-1] == whole


def test_each_size_gets_its_share_of_the_epochs() -> None:
    assert [size_at(epoch, 6, 64, 128) for epoch in range(6)] == [64, 64, 96, 96, 128, 128]


def test_without_a_first_size_all_epochs_see_the_whole_size() -> None:
    assert {size_at(epoch, 6, None, 128) for epoch in range(6)} == {128}


def test_shrunk_images_keep_their_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    small = shrunk(pixels, 64)
    assert small.shape == (3, 64, 64, 3)
    assert small.dtype == np.uint8
    np.testing.assert_allclose(small.mean((1, 2)), pixels.mean((1, 2)), atol=1)
    assert shrunk(pixels, 128) is pixels
