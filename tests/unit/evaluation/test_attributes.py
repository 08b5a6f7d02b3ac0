from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from assay.data import synthetic
from assay.data.dataset import Dataset, from_arrays
from assay.evaluation.attributes import _closing, attributes, sharpness, stroke_width
from assay.evaluation.slices import ATTRIBUTES, KNOWN, members
from assay.preprocess import Geometry

TEXTURE = np.random.default_rng(0).normal(150, 5, (128, 128))


def surface(width: int = 0, angle: float = 0.4, length: float = 200) -> np.ndarray:
    """A textured plane uint8 [128, 128], with a dark line of a width in pixels across it."""
    large = Image.new("L", (512, 512))
    reach = 2 * length * np.array([np.cos(angle), np.sin(angle)])
    if width:
        ImageDraw.Draw(large).line([tuple(256 - reach), tuple(256 + reach)], fill=255, width=4 * width)
    line = np.asarray(large.reduce(4), float) / 255
    return np.clip(TEXTURE - 80 * line, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, 1.3])
def test_the_width_of_a_line_is_found(width: int, angle: float) -> None:
    assert stroke_width(surface(width, angle)) == pytest.approx(width, abs=0.6)


def test_of_two_lines_the_thinner_counts() -> None:
    both = np.minimum(surface(8, angle=0.0), np.roll(surface(2, angle=0.0), 40, axis=0))
    assert stroke_width(both) == pytest.approx(2, abs=0.6)


@pytest.mark.parametrize(
    "picture",
    [surface(), surface(3, length=20), np.full((128, 128), 90, np.uint8), surface(40), 255 - surface(3)],
    ids=["texture", "a dash", "one grey", "a broad band", "a pale line"],
)
def test_without_a_long_thin_dark_line_there_is_no_width(picture: np.ndarray) -> None:
    assert np.isnan(stroke_width(picture))


def test_a_gradient_of_light_is_no_line_and_hides_none() -> None:
    light = np.linspace(0.3, 1.0, 128)[:, None]
    assert stroke_width((surface(3) * light).astype(np.uint8)) == pytest.approx(3, abs=0.6)


def test_thin_cracks_of_the_synthetic_surfaces_are_told_from_wide_ones() -> None:
    true, found = [], []
    for index in (i for i in range(70) if synthetic.label_of(i, 3) == "crack"):
        picture = synthetic.draw(index, 3, 128, hard_negatives=False)
        core = picture.crack > 0.4
        true.append(core.sum() / max(np.hypot(*np.ptp(np.nonzero(core), axis=1)), 1))
        found.append(stroke_width(np.asarray(Image.fromarray(picture.pixels).convert("L"))))
    thin = np.array(found) < (KNOWN["thin_crack"].below or 0)
    assert 3 <= thin.sum() <= len(thin) - 3
    assert np.median(np.array(true)[thin]) < 0.75 * np.median(np.array(true)[~thin])


def test_blur_lowers_sharpness_and_contrast_does_not_change_it() -> None:
    sharp = surface(3)
    pale = np.rint(100 + 0.5 * sharp).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(3)))
    assert sharpness(pale) == pytest.approx(sharpness(sharp), rel=0.05)
    assert sharpness(blurred) < 0.05 < sharpness(sharp)


def test_white_noise_has_a_sharpness_of_twenty() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    assert sharpness(noise) == pytest.approx(20, rel=0.03)


@pytest.mark.parametrize("shape", [(8, 8), (1, 50), (2, 2)])
def test_without_texture_there_is_no_sharpness(shape: tuple[int, int]) -> None:
    assert np.isnan(sharpness(np.full(shape, 7, np.uint8)))
    assert np.isnan(stroke_width(np.full(shape, 7, np.uint8)))


@pytest.mark.parametrize("size", [3, 5, 17])
def test_the_closing_is_scipys(size: int) -> None:
    picture = np.random.default_rng(size).integers(0, 256, (20, 31), dtype=np.uint8)
    expected = ndimage.grey_closing(picture, size=(size, size), mode="nearest")
    assert np.array_equal(_closing(picture, size), expected)


def stored(folder: Path, images: np.ndarray, **columns: list[object]) -> Dataset:
    """Test images, as if their originals had been of another shape."""
    n = len(images)
    dataset = from_arrays(images, ["crack"] * n, folder, splits=["train", *["test"] * (n - 1)])
    table = dataset.manifest
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.field(place), pa.array(values, table.field(place).type))
    return Dataset(table, dataset.shards, dataset.geometry, dataset.labels, "x", dataset.mean, dataset.std)


def colour(grey: np.ndarray) -> np.ndarray:
    return np.stack([np.repeat(grey[..., None], 3, axis=2)] * 3)


def test_one_row_an_image_with_what_the_manifest_knows(tmp_path: Path) -> None:
    size = 128
    data = stored(tmp_path, colour(surface(3)), width=[64, 64, 256], height=[64, 32, 512])
    table = attributes(data.subset("test"))
    assert table.schema == ATTRIBUTES
    assert table["uri"].to_pylist() == ["00000001", "00000002"]
    assert table["aspect_ratio"].to_pylist() == [2.0, 2.0]
    assert table["shorter_side"].to_pylist() == [32, 256]
    assert table["scale"].to_pylist() == [size / 32, size / 256]
    assert table["brightness"].equals(data.subset("test").table["brightness"])
    assert table["stroke_width"].to_pylist() == pytest.approx([3, 3], abs=0.6)
    assert members(KNOWN["small"], table, ["crack"] * 2).tolist() == [True, False]


def test_padding_is_not_measured(tmp_path: Path) -> None:
    half = surface(3)[:64]
    padded = np.zeros((128, 128), np.uint8)
    padded[32:96] = half
    data = stored(tmp_path, colour(padded), width=[128, 256, 256], height=[128, 128, 128])
    pad = Dataset(data.manifest, data.shards, Geometry(128, "pad"), data.labels, "x", data.mean, data.std)
    table = attributes(pad.subset("test"))
    assert table["sharpness"].to_pylist() == pytest.approx([sharpness(half)] * 2)
    assert table["scale"].to_pylist() == [0.5, 0.5]


def test_an_empty_split_gives_an_empty_table(tmp_path: Path) -> None:
    table = attributes(stored(tmp_path, colour(surface())).subset("validation"))
    assert (table.num_rows, table.schema) == (0, ATTRIBUTES)
