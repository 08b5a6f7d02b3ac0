"""The drawn source: parameters in the URI, nothing of a picture from how many there are."""

import io

import pytest
from PIL import Image

from assay.data import synthetic
from assay.data.sources import fingerprint, open_source
from assay.errors import DataError


def test_reads_what_the_generator_draws() -> None:
    source = open_source("synthetic://concrete?count=4&seed=7&size=64")
    pictures = {sample.uri: source.read(sample) for sample in source.list()}
    expected = {f"{synthetic.label_of(i, 7)}/{i:07d}.jpg": synthetic.render(i, 7, 64)[0] for i in range(4)}
    assert pictures == expected
    assert Image.open(io.BytesIO(pictures.popitem()[1])).size == (64, 64)


def test_labels_and_order() -> None:
    samples = open_source("synthetic://concrete?count=50&seed=7").list()
    assert {sample.label for sample in samples} == {"crack", "intact"}
    assert samples == sorted(samples, key=lambda sample: sample.uri)


def test_more_pictures_leave_the_first_as_they_were() -> None:
    few, many = (open_source(f"synthetic://concrete?count={n}&seed=7").list() for n in (20, 40))
    assert set(few) < set(many)


def test_fingerprint_hangs_on_every_parameter() -> None:
    uris = ["count=5&seed=1", "count=6&seed=1", "count=5&seed=2", "count=5&seed=1&size=96"]
    assert len({fingerprint(f"synthetic://concrete?{query}") for query in uris}) == 4


def test_defaults() -> None:
    assert len(open_source("synthetic://concrete").list()) == 3000


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("synthetic://metal?count=5", "only synthetic://concrete is known"),
        ("synthetic://concrete/x?count=5", "only synthetic://concrete is known"),
        ("synthetic://concrete?cuont=5", "unknown parameter 'cuont'; known: count, seed, size"),
        ("synthetic://concrete?count=", r"count must be a whole number from 1 to 10,000,000 \(given: ''\)"),
        ("synthetic://concrete?count=0", "from 1 to"),
        ("synthetic://concrete?count=1e3", "whole number"),
        ("synthetic://concrete?count=²", "whole number"),
        ("synthetic://concrete?count=" + "9" * 5000, "whole number"),
        ("synthetic://concrete?seed=-1", "seed must be a whole number from 0"),
        ("synthetic://concrete?size=8", "size must be a whole number from 48"),
    ],
)
def test_wrong_parameters_are_named(uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(uri)
