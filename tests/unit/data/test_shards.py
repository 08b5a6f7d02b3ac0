import os
from pathlib import Path

import numpy as np
import pytest

from assay.data import shards


@pytest.mark.parametrize(("rows", "size"), [(1, 16), (5461, 128), (16_384, 28), (21, 2048)])
def test_the_header_is_that_of_an_npy_file(rows: int, size: int, tmp_path: Path) -> None:
    shape = (rows, size, size, 3)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape)
    with (tmp_path / "x.npy").open("rb") as file:
        assert file.read(shards.HEADER_BYTES) == shards.header(rows, size)
    assert (tmp_path / "x.npy").stat().st_size == shards.file_bytes(rows, size)


def test_a_sealed_shard_is_an_npy_file_of_the_images_put_there(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    descriptor = os.open(tmp_path / "partial", os.O_CREAT | os.O_WRONLY)
    for row in (2, 0):
        shards.write_image(descriptor, row, pixels[row])
    os.close(descriptor)
    shards.seal(tmp_path / "partial", tmp_path / "whole.npy", 4, 16)
    loaded = np.load(tmp_path / "whole.npy", mmap_mode="r", allow_pickle=False)
    assert loaded.shape == (4, 16, 16, 3)
    assert np.array_equal(loaded[[0, 2]], pixels[[0, 2]])
    assert not loaded[[1, 3]].any()
    assert not (tmp_path / "partial").exists()


def test_an_image_is_written_whole_even_if_the_system_takes_it_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:100], offset))
    descriptor = os.open(tmp_path / "partial", os.O_CREAT | os.O_WRONLY)
    shards.write_image(descriptor, 1, pixels)
    os.close(descriptor)
    start = shards.file_bytes(1, 16)
    assert (tmp_path / "partial").read_bytes()[start:] == pixels.tobytes()


@pytest.mark.parametrize("size", [16, 128, 224, 2048])
@pytest.mark.parametrize("limit", [2**20, shards.SHARD_BYTES])
def test_a_shard_of_full_capacity_stays_within_its_limit(size: int, limit: int) -> None:
    rows = shards.capacity(size, limit)
    assert rows == 1 or shards.file_bytes(rows, size) <= limit


def test_a_shard_holds_at_least_one_image() -> None:
    assert shards.capacity(2048, 1000) == 1
