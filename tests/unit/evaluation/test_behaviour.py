import numpy as np
import pytest

from assay.evaluation.behaviour import BEHAVIOUR, CONTRAST_KEPT, INVARIANCES, lower_contrast

from toybundle import pixels


@pytest.mark.parametrize("name", INVARIANCES)
def test_flips_and_turns_move_pixels_and_change_none(name: str) -> None:
    before = pixels(2, 6)
    after = BEHAVIOUR[name](before)
    assert after.shape == before.shape
    assert not np.array_equal(after, before)
    assert np.array_equal(np.sort(after.reshape(2, -1, 3), axis=1), np.sort(before.reshape(2, -1, 3), axis=1))


def test_each_is_another_one() -> None:
    before = pixels(1, 6)
    assert len({np.ascontiguousarray(change(before)).tobytes() for change in INVARIANCES.values()}) == 5


def test_four_quarter_turns_are_none() -> None:
    before = after = pixels(1, 6)
    for _ in range(4):
        after = BEHAVIOUR["rotate_90"](after)
    assert np.array_equal(after, before)


def test_lower_contrast_keeps_each_images_luminance() -> None:
    before = np.concatenate([pixels(3, 16), pixels(1, 16) // 4])
    after = lower_contrast(before)
    weights = np.array([0.299, 0.587, 0.114])
    assert after.dtype == np.uint8
    assert (after @ weights).mean(axis=(1, 2)) == pytest.approx((before @ weights).mean(axis=(1, 2)), abs=0.5)
    assert after.std(axis=(1, 2)) == pytest.approx(CONTRAST_KEPT * before.std(axis=(1, 2)), rel=0.02)
