"""The drawn surfaces: the same everywhere, as labelled, and not to be told apart by anything but their cracks."""

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from assay import digests
from assay.data import synthetic
from assay.data.synthetic import Picture
from assay.errors import DataError

SEED = 20


@dataclass(frozen=True)
class Sample:
    picture: Picture
    data: bytes

    @property
    def decoded(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.data)))


def samples(indices: range, size: int = 160) -> Iterator[Sample]:
    for index in indices:
        yield Sample(synthetic.draw(index, SEED, size), synthetic.render(index, SEED, size)[0])


@pytest.fixture(scope="module")
def many() -> list[Sample]:
    return list(samples(range(400)))


def of_label(many: list[Sample], label: str) -> list[Sample]:
    return [sample for sample in many if sample.picture.label == label]


def test_another_process_renders_the_same_bytes() -> None:
    code = (
        "from assay import digests; from assay.data import synthetic;"
        f"print(*[digests.of_bytes(synthetic.render(i, {SEED})[0]) for i in (9, 2, 5)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [digests.of_bytes(synthetic.render(index, SEED)[0]) for index in (9, 2, 5)]


def test_a_picture_does_not_depend_on_what_was_drawn_before(many: list[Sample]) -> None:
    backwards = {index: synthetic.render(index, SEED)[0] for index in reversed(range(0, 400, 40))}
    assert all(many[index].data == data for index, data in backwards.items())


@given(index=st.integers(0, 2**32 - 1), seed=st.integers(0, 2**32 - 1), hard=st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_index_and_seed_give_a_jpeg_with_its_label(index: int, seed: int, hard: bool) -> None:
    data, label = synthetic.render(index, seed, 64, hard)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
    assert label == synthetic.label_of(index, seed)


def test_labels_are_balanced_and_of_no_pattern() -> None:
    cracked = np.array([[synthetic.label_of(i, seed) == "crack" for i in range(3000)] for seed in (0, 7)])
    assert np.abs(cracked.mean(axis=1) - 0.5).max() < 0.03
    assert abs(np.corrcoef(cracked[0], cracked[1])[0, 1]) < 0.06
    assert abs(np.corrcoef(cracked[0, 1:], cracked[0, :-1])[0, 1]) < 0.06


def test_seed_and_index_both_matter() -> None:
    data = {synthetic.render(index, seed, 48)[0] for index in range(4) for seed in range(4)}
    assert len(data) == 16


def test_every_crack_is_seen_after_jpeg(many: list[Sample]) -> None:
    cracks = [synthetic.visibility(s.decoded, s.picture.crack) for s in of_label(many, "crack")]
    assert min(seen.area for seen in cracks) >= synthetic.MIN_AREA
    assert min(seen.extent for seen in cracks) >= synthetic.MIN_EXTENT
    assert min(seen.contrast for seen in cracks) >= 0.9 * synthetic.MIN_CONTRAST
    assert min(seen.contrast / seen.noise for seen in cracks) >= 0.9 * synthetic.MIN_CONTRAST_TO_NOISE


@pytest.mark.parametrize("size", [48, 128, 227, 400])
def test_every_crack_is_seen_at_any_size(size: int) -> None:
    pictures = [synthetic.draw(index, SEED, size) for index in range(16)]
    seen = [synthetic.visibility(p.pixels, p.crack) for p in pictures if p.label == "crack"]
    assert seen
    assert all(one.enough for one in seen)


def test_a_crack_that_is_not_in_the_pixels_is_not_seen(many: list[Sample]) -> None:
    cracks = [sample.picture.crack for sample in of_label(many, "crack")[:40]]
    blank = [sample.picture.pixels for sample in of_label(many, "intact")[:40]]
    assert not any(
        synthetic.visibility(p, c).contrast >= synthetic.MIN_CONTRAST for p, c in zip(blank, cracks, strict=True)
    )


def test_no_crack_at_all_is_not_seen(many: list[Sample]) -> None:
    assert not synthetic.visibility(many[0].picture.pixels, np.zeros((160, 160), np.float32)).enough


def test_intact_pictures_have_no_crack(many: list[Sample]) -> None:
    intact = of_label(many, "intact")
    assert intact
    assert not any(sample.picture.crack.any() for sample in intact)


def test_hard_negatives_can_be_left_out() -> None:
    indices = [index for index in range(60) if synthetic.label_of(index, SEED) == "intact"]
    with_marks, without = (
        np.mean([synthetic.draw(index, SEED, hard_negatives=hard).pixels.std() for index in indices])
        for hard in (True, False)
    )
    assert without < 0.75 * with_marks


def test_no_picture_nearly_repeats_another(many: list[Sample]) -> None:
    bits = np.array([perceptual_bits(sample.decoded) for sample in many])
    distance = (bits[:, None] != bits[None]).sum(axis=2) + 64 * np.eye(len(bits), dtype=int)
    assert distance.min() >= 6


def perceptual_bits(pixels: np.ndarray) -> np.ndarray:
    """The usual 64-bit perceptual hash: signs of the low frequencies against their median."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32)), float)
    low = dctn(small)[:8, :8].ravel()
    return low > np.median(low)


def test_jpeg_quality_and_brightness_do_not_tell_the_label(many: list[Sample]) -> None:
    facts = np.array([[s.picture.quality, s.decoded.mean(), len(s.data)] for s in many], float)
    assert accuracy_of_a_line(facts, many) < 0.62


def test_global_statistics_hardly_tell_the_label(many: list[Sample]) -> None:
    levels = np.array([np.percentile(s.decoded, [1, 5, 25, 50, 75, 95, 99]) for s in many])
    facts = np.array([[s.decoded.mean(), s.decoded.std(), len(s.data)] for s in many])
    assert accuracy_of_a_line(np.hstack([facts, levels]), many) < 0.76


def accuracy_of_a_line(features: np.ndarray, many: list[Sample]) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    cracked = [sample.picture.label == "crack" for sample in many]
    return float(cross_val_score(model, features, cracked, cv=5).mean())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"index": -1}, "index is -1"),
        ({"seed": -5}, "seed is -5"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"size": 47}, "size is 47"),
        ({"size": 1025}, "size is 1025"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(arguments: dict[str, int], named: str) -> None:
    with pytest.raises(DataError, match=f"{named}; give one from"):
        synthetic.render(**({"index": 0, "seed": 0} | arguments))
