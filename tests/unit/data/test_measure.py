import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from assay.data.measure import measure, perceptual_hash

SIZES = (16, 32, 45, 128)


def noise(seed: int, size: int = 64) -> np.ndarray:
    """A picture with structure at every scale, uint8 [size, size, 3]."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def bits_that_differ(a: np.ndarray, b: np.ndarray) -> int:
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from(SIZES))
@settings(max_examples=25, deadline=None)
def test_channel_sums_are_exact(seed: int, size: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    measures, exact = measure(pixels), pixels.astype(np.int64)
    assert list(measures.sums) == exact.sum((0, 1)).tolist()
    assert list(measures.squares) == (exact**2).sum((0, 1)).tolist()


def test_brightness_and_contrast_are_those_of_the_luminance() -> None:
    pixels = noise(1)
    luminance = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    measures = measure(pixels)
    assert measures.brightness == pytest.approx(luminance.mean(), abs=0.003)
    assert measures.contrast == pytest.approx(luminance.std(), abs=0.003)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("size", SIZES)
def test_a_plain_picture_has_its_level_no_contrast_and_no_hash(level: int, size: int) -> None:
    measures = measure(np.full((size, size, 3), level, np.uint8))
    assert measures.brightness == pytest.approx(level / 255, abs=1e-12)
    assert (measures.contrast, measures.phash) == (0.0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_that_of_a_dct_in_floating_point(seed: int) -> None:
    pixels = noise(seed, 32)
    low = dctn(np.asarray(Image.fromarray(pixels).convert("L"), dtype=float), norm="ortho")[1:9, 1:9].ravel()
    expected = sum(1 << i for i in range(64) if low[i] > np.median(low))
    assert (perceptual_hash(pixels) ^ expected).bit_count() <= 2  # the median's neighbours may change sides by rounding


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_survives_compression_scaling_and_light(seed: int) -> None:
    pixels = noise(seed, 128)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    smaller = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BILINEAR)
    darker = (pixels * 0.8).astype(np.uint8)
    for variant in (np.asarray(Image.open(buffer)), np.asarray(smaller), darker):
        assert bits_that_differ(pixels, variant) <= 6


def test_hashes_of_different_pictures_differ_in_many_bits() -> None:
    pictures = [noise(seed) for seed in range(12)]
    distances = [bits_that_differ(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(distances) >= 12


def test_the_hash_has_as_many_ones_as_zeros_and_uses_all_its_bits() -> None:
    hashes = [perceptual_hash(noise(seed)) for seed in range(60)]
    assert {value.bit_count() for value in hashes} == {32}
    assert np.bitwise_or.reduce(np.array(hashes, dtype=np.uint64)) == np.uint64(2**64 - 1)
