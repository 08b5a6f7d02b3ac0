import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assay.data import duplicates, synthetic
from assay.data.dataset import Dataset, from_arrays
from assay.data.duplicates import MAX_DISTANCE, SAME_BELOW, WINDOW, candidates, relate, thumbnails, unexplained

SIZE = 96
ORIGINAL = 128
Edit = Callable[[Image.Image], Image.Image]


def concrete(count: int) -> list[Image.Image]:
    return [Image.open(io.BytesIO(synthetic.render(i, seed=3, size=ORIGINAL)[0])).convert("RGB") for i in range(count)]


PICTURES = concrete(30)


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(i.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0)) for i in images])


def dataset(arrays: np.ndarray, folder: Path, **columns: object) -> Dataset:
    return from_arrays(arrays, ["a"] * len(arrays), folder, **columns)


def with_hash(whole: Dataset, value: int) -> Dataset:
    """The same data set, each of its pictures with one perceptual hash."""
    column = pa.repeat(pa.scalar(value, pa.uint64()), whole.manifest.num_rows)
    place = whole.manifest.schema.get_field_index("phash")
    return Dataset(
        whole.manifest.set_column(place, "phash", column), whole.shards, whole.geometry, whole.labels, whole.source
    )


def partition(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == number).tolist()) for number in np.unique(groups)}


def jpeg(quality: int) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")

    return edit


def scaled(factor: float) -> Edit:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), Image.LANCZOS)


def brighter(factor: float) -> Edit:
    return lambda image: image.point([min(255, round(level * factor)) for level in range(256)] * 3)


def cropped(left: int, top: int, right: int, bottom: int) -> Edit:
    return lambda image: image.crop((left, top, image.width - right, image.height - bottom))


EDITS: dict[str, Edit] = {
    "JPEG 60": jpeg(60),
    "JPEG 95": jpeg(95),
    "half the size": scaled(0.5),
    "twice the size": scaled(2.0),
    "10% brighter": brighter(1.1),
    "10% darker": brighter(0.9),
    "cropped by 1 pixel": cropped(1, 0, 0, 1),
    "cropped all round": cropped(1, 1, 1, 1),
}


@pytest.mark.parametrize("name", EDITS)
def test_copies_are_found(name: str, tmp_path: Path) -> None:
    arrays = np.concatenate([pixels(PICTURES), pixels([EDITS[name](image) for image in PICTURES])])
    groups = relate(dataset(arrays, tmp_path)).groups()
    found = np.mean(groups[: len(PICTURES)] == groups[len(PICTURES) :])
    assert found >= 0.9
    assert np.bincount(groups).max() == 2


def test_different_pictures_are_not_linked_even_if_their_hashes_are_equal(tmp_path: Path) -> None:
    alike = with_hash(dataset(pixels(PICTURES), tmp_path), 12345)
    assert len(relate(alike).edges) == 0


def test_a_picture_with_something_added_in_one_place_is_another_picture() -> None:
    plain = pixels(PICTURES)
    marked = plain.copy()
    marked[:, 40:56, 40:56] = marked[:, 40:56, 40:56] // 2
    assert (unexplained(thumbnails(plain), thumbnails(marked)) > SAME_BELOW).mean() > 0.9


def test_a_picture_explains_itself_and_its_negative_does_not() -> None:
    small = thumbnails(pixels(PICTURES))
    assert np.allclose(unexplained(small, small), 0, atol=1e-3)
    assert np.isinf(unexplained(small, 255 - small)).all()


def flat(*levels: tuple[int, int, int]) -> np.ndarray:
    return np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in levels])


def speckled(arrays: np.ndarray) -> np.ndarray:
    """Each with one pixel a level brighter: another file, still flat."""
    out = arrays.copy()
    out[:, 3, 5] += 1
    return out


def test_flat_pictures_are_the_same_only_if_their_colour_is(tmp_path: Path) -> None:
    colours = flat((100, 100, 100), (200, 200, 200), (180, 70, 70))
    groups = relate(dataset(np.concatenate([colours, speckled(colours)]), tmp_path)).groups()
    assert partition(groups) == {frozenset({0, 3}), frozenset({1, 4}), frozenset({2, 5})}


def test_ever_brighter_flat_pictures_are_no_chain(tmp_path: Path) -> None:
    ladder = flat(*[(level, level, level) for level in range(60, 120)])
    assert len(partition(relate(dataset(ladder, tmp_path)).groups())) == 60


def test_same_files_and_given_groups_are_linked_through_each_other(tmp_path: Path) -> None:
    arrays = pixels(PICTURES)[[0, 1, 1, 2, 3, 4]]
    whole = dataset(arrays, tmp_path, groups=["bridge", "bridge", None, "wall", "wall", None])
    groups = relate(whole, near_duplicates=False).groups()
    assert partition(groups) == {frozenset({0, 1, 2}), frozenset({3, 4}), frozenset({5})}


def test_a_file_that_is_there_hundreds_of_times_is_linked() -> None:
    assert len(np.unique(duplicates.components(2, np.tile([[0, 1]], (256, 1))))) == 1


def test_near_duplicates_can_be_left_apart(tmp_path: Path) -> None:
    arrays = pixels([PICTURES[0], EDITS["JPEG 95"](PICTURES[0])])
    whole = dataset(arrays, tmp_path)
    assert partition(relate(whole).groups()) == {frozenset({0, 1})}
    assert partition(relate(whole, near_duplicates=False).groups()) == {frozenset({0}), frozenset({1})}


def test_quarantined_rows_link_nothing(tmp_path: Path) -> None:
    whole = dataset(pixels(PICTURES)[[0, 0, 1]], tmp_path)
    place = whole.manifest.schema.get_field_index("fault")
    manifest = whole.manifest.set_column(place, "fault", pa.array(["unreadable", "", ""]))
    damaged = Dataset(manifest, whole.shards, whole.geometry, whole.labels, whole.source)
    assert partition(relate(damaged).groups()) == {frozenset({0}), frozenset({1})}


def test_names_and_order_of_the_rows_do_not_matter(tmp_path: Path) -> None:
    arrays = np.concatenate([pixels(PICTURES[:8]), pixels([EDITS["JPEG 60"](image) for image in PICTURES[:8]])])
    order = np.random.default_rng(1).permutation(len(arrays))
    straight = relate(dataset(arrays, tmp_path / "a")).groups()
    shuffled = relate(dataset(arrays[order], tmp_path / "b")).groups()
    assert partition(straight) == {frozenset(order[list(group)].tolist()) for group in partition(shuffled)}


@st.composite
def hashes(draw: st.DrawFn) -> np.ndarray:
    """Hashes in clusters: each is another one with a few bits flipped."""
    values = [draw(st.integers(0, 2**64 - 1))]
    for _ in range(draw(st.integers(0, 40))):
        value = draw(st.sampled_from(values)) if draw(st.booleans()) else draw(st.integers(0, 2**64 - 1))
        for bit in draw(st.lists(st.integers(0, 63), max_size=8)):
            value ^= 1 << bit
        values.append(value)
    return np.array(values, np.uint64)


@given(hashes())
@settings(max_examples=60, deadline=None)
def test_candidates_are_all_pairs_within_the_distance_each_once(values: np.ndarray) -> None:
    distance = np.bitwise_count(values[:, None] ^ values[None])
    expected = {(int(a), int(b)) for a, b in zip(*np.nonzero(np.triu(distance <= MAX_DISTANCE, 1)), strict=True)}
    found = [(int(min(pair)), int(max(pair))) for pair in candidates(values)]
    assert sorted(found) == sorted(expected)


def test_equal_hashes_stay_linked_and_cost_no_more_than_a_window_each() -> None:
    pairs = candidates(np.full(3000, 7, np.uint64))
    assert len(pairs) <= 3000 * WINDOW
    assert len(np.unique(duplicates.components(3000, pairs))) == 1


def test_rows_without_pixels_are_compared_by_hash_and_colour(tmp_path: Path) -> None:
    whole = with_hash(dataset(np.concatenate([pixels(PICTURES[:1]), pixels(PICTURES[:1]) // 4]), tmp_path), 5)
    place = whole.manifest.schema.get_field_index("shard")
    unstored = Dataset(
        whole.manifest.set_column(place, "shard", pa.array(["", ""])), tmp_path, whole.geometry, ("a",), "x"
    )
    assert len(relate(unstored).edges) == 0
