import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.data import synthetic
from assay.errors import ConfigError
from assay.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

from pictures import picture

SIZE = 32
PIXELS = np.stack([np.asarray(picture(seed, SIZE, SIZE)) for seed in range(4)])
DIGESTS = [f"{seed:064x}" for seed in range(4)]
CONCRETE = np.stack([synthetic.draw(index, 7, 128).pixels for index in range(8)])
NAMES = sorted(CORRUPTIONS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [16, 50, 130])
def test_size_and_type_stay_and_the_input_is_left_alone(name: str, size: int) -> None:
    pixels = np.stack([np.asarray(picture(1, size, size))])
    before = pixels.copy()
    for severity in SEVERITIES:
        worse = corrupt(pixels, DIGESTS[:1], name, severity)
        assert (worse.shape, worse.dtype) == (pixels.shape, np.uint8)
        assert not np.array_equal(worse, pixels)
    assert np.array_equal(pixels, before)


@given(st.sampled_from(NAMES), st.sampled_from(SEVERITIES), st.permutations(range(4)), st.integers(1, 4))
def test_neither_order_nor_batch_nor_number_matters(name: str, severity: int, order: list[int], batch: int) -> None:
    whole = corrupt(PIXELS, DIGESTS, name, severity)
    for start in range(0, 4, batch):
        rows = order[start : start + batch]
        part = corrupt(PIXELS[rows], [DIGESTS[row] for row in rows], name, severity)
        assert np.array_equal(part, whole[rows])


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "motion_blur", "fog", "spatter", "elastic"])
def test_images_of_other_digests_get_other_random_numbers(name: str) -> None:
    same = np.repeat(PIXELS[:1], 2, axis=0)
    one, other = corrupt(same, DIGESTS[:2], name, 3)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_changes_images_more(name: str) -> None:
    digests = [f"{index:064x}" for index in range(len(CONCRETE))]
    mild, middling, harsh = (
        np.abs(corrupt(CONCRETE, digests, name, s).astype(float) - CONCRETE).mean() for s in (1, 3, 5)
    )
    assert mild < middling < harsh


def test_contrast_is_taken_about_the_mean() -> None:
    faint = corrupt(PIXELS, DIGESTS, "contrast", 5).astype(float)
    assert faint.mean(axis=(1, 2, 3)) == pytest.approx(PIXELS.mean(axis=(1, 2, 3)), abs=1)
    assert faint.std(axis=(1, 2, 3)) == pytest.approx(0.12 * PIXELS.std(axis=(1, 2, 3)), rel=0.1)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no corruption is called 'hail'; known: gaussian_noise, "):
        corrupt(PIXELS, DIGESTS, "hail", 1)
