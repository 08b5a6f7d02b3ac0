"""Concrete surfaces drawn by Assay itself, as a source: `synthetic://concrete?count=3000&seed=7&size=160`."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qsl

from assay.data import synthetic
from assay.data.sources.base import Sample
from assay.errors import DataError

MAX_COUNT = 10_000_000

_DEFAULTS = {"count": 3000, "seed": 0, "size": 160}
_RANGES = {"count": (1, MAX_COUNT), "seed": (0, 2**32 - 1), "size": (synthetic.MIN_SIZE, synthetic.MAX_SIZE)}


@dataclass(frozen=True)
class SyntheticSource:
    """Pictures 0 to `count` - 1 of a seed; a larger count adds pictures and changes none."""

    uri: str
    count: int
    seed: int
    size: int

    @classmethod
    def parse(cls, uri: str) -> "SyntheticSource":
        """Read the URI's parameters (DataError where one is unknown, no number, or out of range)."""
        name, _, query = uri.removeprefix("synthetic://").partition("?")
        if name != "concrete":
            raise DataError(f"{uri}: only synthetic://concrete is known; as in synthetic://concrete?count=3000&seed=7")
        given = parse_qsl(query, keep_blank_values=True)
        return cls(uri, **{**_DEFAULTS, **{name: _number(uri, name, text) for name, text in given}})

    def list(self) -> list[Sample]:
        return sorted(map(self._sample, range(self.count)), key=lambda sample: sample.uri)

    def read(self, sample: Sample) -> bytes:
        return synthetic.render(int(PurePosixPath(sample.uri).stem), self.seed, self.size)[0]

    def close(self) -> None:
        """Nothing is held open."""

    def _sample(self, index: int) -> Sample:
        label = synthetic.label_of(index, self.seed)
        stamp = f"{synthetic.VERSION}-{self.seed}-{self.size}-{index}"
        return Sample(f"{label}/{index:07d}.jpg", label, None, stamp)


def _number(uri: str, name: str, text: str) -> int:
    if name not in _RANGES:
        raise DataError(f"{uri}: unknown parameter {name!r}; known: {', '.join(_RANGES)}")
    lowest, highest = _RANGES[name]
    if not (text.isascii() and text.isdigit() and len(text) < 12 and lowest <= int(text) <= highest):
        raise DataError(f"{uri}: {name} must be a whole number from {lowest:,} to {highest:,} (given: {text!r})")
    return int(text)
