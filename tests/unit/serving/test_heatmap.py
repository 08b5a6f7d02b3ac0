"""Heat maps: they point at what decides, and are numbers from 0 to 1 whatever is asked."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from serving.heatmap import BATCH, GRID, GRIDS, MASKS, Predict, affordable, heatmap, overlay, pictures

Pixels = NDArray[np.uint8]


def concrete(size: int = 96, seed: int = 0) -> Pixels:
    """Grey grain without any structure."""
    return np.random.default_rng(seed).integers(120, 160, (size, size, 3), dtype=np.uint8)


def marked(top: int, left: int, side: int = 12, size: int = 96) -> Pixels:
    """Concrete with a black square."""
    pixels = concrete(size)
    pixels[top : top + side, left : left + side] = 0
    return pixels


def answers(odds: Callable[[Pixels], NDArray[np.float64]]) -> Predict:
    """A predictor of two classes; the log-odds of the second are those of each picture."""

    def predict(pictures: Pixels) -> NDArray[np.float32]:
        p = 1 / (1 + np.exp(-odds(pictures)))
        return np.stack([1 - p, p], axis=1).astype(np.float32)

    return predict


def darkness_at(top: int, left: int, side: int = 12) -> Predict:
    """How dark one square is, and nothing else, decides."""

    def odds(pictures: Pixels) -> NDArray[np.float64]:
        square = pictures[:, top : top + side, left : left + side]
        return np.asarray(4 - square.mean(axis=(1, 2, 3)) / 16)

    return answers(odds)


def _darkness(pictures: Pixels) -> NDArray[np.float64]:
    dark = (pictures.max(axis=-1) < 60).sum(axis=(1, 2))
    return np.asarray(np.log1p(dark) - 2)


darkness = answers(_darkness)
"""The more dark pixels the surer, wherever they are, and a few are enough: how a detector of cracks answers."""


def coin(pictures: Pixels) -> NDArray[np.float32]:
    """The same answer to everything."""
    return np.tile(np.array([[0.3, 0.7]], np.float32), (len(pictures), 1))


@pytest.mark.parametrize(("top", "left"), [(0, 0), (12, 72), (42, 42), (60, 18), (84, 84)])
def test_the_map_is_hottest_where_the_answer_comes_from(top: int, left: int) -> None:
    heat = heatmap(darkness_at(top, left), marked(top, left), 1)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    assert top - 6 <= row < top + 18
    assert left - 6 <= column < left + 18


def test_what_is_far_from_it_stays_cold() -> None:
    heat = heatmap(darkness_at(12, 72), marked(12, 72), 1)
    assert heat.max() == pytest.approx(1)
    assert heat[48:].max() < 0.01
    assert heat[:, :48].max() < 0.01


def test_a_thing_of_which_any_part_would_do_is_found() -> None:
    pixels = concrete()
    pixels[:, 46:49] = 0  # from the top to the bottom: with any patch of it hidden, the answer is as sure
    heat = heatmap(darkness, pixels, 1)
    assert heat[:, 42:54].mean() > 4 * heat[:, :24].mean()
    assert heat[:, 42:54].mean() > 4 * heat[:, 72:].mean()


def test_what_speaks_against_the_class_is_cold() -> None:
    heat = heatmap(darkness_at(42, 42), marked(42, 42), 0)
    assert heat[42:54, 42:54].max() == 0


def test_where_every_answer_is_the_same_nothing_is_hot() -> None:
    heat = heatmap(coin, marked(42, 42), 1)
    assert heat.dtype == np.float32
    assert not heat.any()


def test_where_no_place_matters_the_map_stays_faint() -> None:
    trifle = answers(lambda pictures: pictures[:, 42:54, 42:54].mean(axis=(1, 2, 3)) / 1e5)
    assert 0 < heatmap(trifle, 255 - marked(42, 42), 1).max() < 0.1


def test_certain_answers_give_numbers() -> None:
    certain = answers(lambda pictures: np.where(pictures.min(axis=(1, 2, 3)) < 60, 100.0, -100.0))
    heat = heatmap(certain, marked(42, 42), 1)
    assert np.isfinite(heat).all()
    assert heat[48, 48] > 0.9


def test_the_model_is_asked_as_often_as_is_said_and_with_few_pictures_at_once() -> None:
    asked: list[int] = []

    def predict(pictures: Pixels) -> NDArray[np.float32]:
        asked.append(len(pictures))
        assert (pictures.dtype, pictures.shape[1:]) == (np.uint8, (96, 96, 3))
        return coin(pictures)

    heatmap(predict, concrete(), 0)
    assert (sum(asked), max(asked)) == (MASKS, BATCH)
    asked.clear()
    heatmap(predict, concrete(), 0, rounds=2)
    assert sum(asked) == 2 * MASKS
    for grid in GRIDS:
        asked.clear()
        heatmap(predict, concrete(), 0, grid=grid)
        assert sum(asked) == pictures(grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_coarser_map_is_hottest_in_the_same_cell(grid: int) -> None:
    heat = heatmap(darkness_at(60, 12), marked(60, 12), 1, grid=grid)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    half = 96 / grid
    assert abs(row - 66) <= half
    assert abs(column - 18) <= half


def test_a_slow_model_gets_the_finest_map_there_is_time_for() -> None:
    assert [affordable(second, 10) for second in (0, 0.01, 0.1, 0.2, 0.5, 9)] == [8, 8, 5, 4, 2, 2]


@settings(max_examples=25)
@given(
    size=st.integers(1, 40),
    classes=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-6, 0.1, 30.0]),
)
def test_any_picture_of_any_model_gives_numbers_from_0_to_1(size: int, classes: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    weights = rng.normal(0, scale, (size * size * 3, classes))

    def predict(pictures: Pixels) -> NDArray[np.float32]:
        logits = pictures.reshape(len(pictures), -1) / 255 @ weights
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    heat = heatmap(predict, pixels, int(rng.integers(classes)), seed=seed)
    assert (heat.shape, heat.dtype) == ((size, size), np.float32)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert np.array_equal(heat, heatmap(predict, pixels, 0, seed=seed)) or classes > 1


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_the_same_seed_gives_the_same_map(seed: int) -> None:
    pixels = marked(30, 60, size=80)
    assert np.array_equal(heatmap(darkness, pixels, 1, seed=seed), heatmap(darkness, pixels, 1, seed=seed))


def test_another_seed_gives_nearly_the_same_map() -> None:
    one, other = (heatmap(darkness, marked(42, 42), 1, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one, other)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_the_picture_that_is_explained_is_left_as_it_was() -> None:
    pixels = marked(42, 42)
    pixels.flags.writeable = False
    heatmap(darkness, pixels, 1)


@pytest.mark.parametrize(
    "pixels",
    [concrete().astype(np.float32), concrete()[:50], concrete()[..., 0], concrete()[np.newaxis]],
    ids=["float", "oblong", "grey", "batch"],
)
def test_what_is_no_picture_is_refused(pixels: Pixels) -> None:
    with pytest.raises(ValueError, match=r"pixels must be uint8 \[s, s, 3\]"):
        heatmap(coin, pixels, 0)


@pytest.mark.parametrize("target", [-1, 2])
def test_a_class_that_is_not_there_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=f"target {target}"):
        heatmap(coin, concrete(), target)


def test_an_answer_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        heatmap(lambda pictures: np.full((len(pictures), 2), np.nan, np.float32), concrete(), 0)


def drawn(pixels: Pixels, heat: NDArray[np.float32]) -> NDArray[np.int16]:
    data = overlay(pixels, heat)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).astype(np.int16)


def test_the_overlay_leaves_what_is_cold_as_it_is() -> None:
    pixels = concrete(20)
    assert np.array_equal(drawn(pixels, np.zeros((20, 20), np.float32)), pixels)


def test_the_overlay_grows_lighter_and_stronger_with_the_heat() -> None:
    black = np.zeros((101, 101, 3), np.uint8)
    heat = np.tile(np.linspace(0, 1, 101, dtype=np.float32), (101, 1))
    row = drawn(black, heat)[0]
    luminance = row @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) >= -1).all()
    assert luminance[-1] > 150


def test_the_overlay_keeps_the_picture_visible() -> None:
    hot = np.ones((64, 64), np.float32)
    assert drawn(marked(20, 20, size=64), hot).std(axis=(0, 1)).min() > 5


def test_cells_cover_the_picture_evenly() -> None:
    grain = answers(lambda pictures: pictures.astype(np.float64).std(axis=(1, 2, 3)) - 8)
    assert heatmap(grain, concrete(GRID * 12), 1).min() > 0.8
