"""What was asked of which test set.

Whoever asks one test set often enough finds a candidate that passes by luck; so looks are counted. A test set that only
grew or lost a few images is still the same one. To recognise it without keeping every image's digest, each look holds a
bottom-k sketch of its test set: the smallest SHA-256 of its images. SHA-256 is as good as a random order of all images
that will ever be, so what two sketches share is a sample of what the test sets share (Broder, "On the resemblance and
containment of documents", SEQUENCES 1997; Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC 2007).
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay.errors import LedgerError

SKETCH = 256
"""Digests in a sketch; a test set of no more images is known in full."""
DIGITS = 16
"""Hex digits kept of each: 64 bits, which no two images of a sketch share."""
SHARED = 0.10
"""Test sets that share more than this part of either one's images count as one."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SKETCH = re.compile(rf"(?:[0-9a-f]{{{DIGITS}}}){{1,{SKETCH}}}")
_BEYOND = "g"
"""Greater than any hex digit."""


class Record(BaseModel):
    """Base of what is written: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sketch(Record):
    """The images of a test set with the smallest digests, which say how much of it another one shares."""

    images: int = Field(ge=1)
    """Distinct images of the test set."""
    smallest: str
    """The first `DIGITS` digits of each of its `SKETCH` smallest SHA-256, ascending, one after the other."""

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if len(_hashes(self.smallest)) != min(self.images, SKETCH):
            raise ValueError(f"{len(self.smallest) // DIGITS} digests in a sketch of {self.images} images")
        return self

    @property
    def limit(self) -> str:
        """Up to here every image of the test set is in the sketch."""
        return self.smallest[-DIGITS:] if self.images > SKETCH else _BEYOND


class Question(Record):
    """What is asked of a test set: whether the candidate is good enough, beside the champion, by the policy.

    A ledger holds it: fields in the order of their names, as in `assay.gate.ledger.entries`.
    """

    candidate_digest: Digest
    champion_digest: Digest | None
    policy_digest: Digest
    sketch: Sketch
    split_digest: Digest

    @property
    def key(self) -> tuple[str, str | None, str, str]:
        """Equal where the question is the same one, whose answer is known."""
        return self.candidate_digest, self.champion_digest, self.policy_digest, self.split_digest


@dataclass(frozen=True)
class Look:
    """A question put to a test set, counted."""

    number: int
    """From 1, over all looks at this test set."""
    left: int
    """Looks that the policy still allows after this one."""
    spent: bool
    """Whether this one is more than the policy allows. It is counted all the same: its answer may be seen."""


class Tally:
    """Looks so far at test sets; those that overlap count together."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, str], int] = {}
        self._sketches: list[Sketch] = []
        self._looks: list[int] = []
        self._near: list[list[int]] = []
        self._holding: dict[str, tuple[int, ...]] = {}

    def count(self, sketch: Sketch) -> int:
        """Looks so far at the test set of `sketch`, or at one that it overlaps."""
        return sum(self._looks[place] for place in self._near[self._place(sketch)])

    def add(self, sketch: Sketch) -> None:
        """One more look at the test set of `sketch`."""
        self._looks[self._place(sketch)] += 1

    def _place(self, sketch: Sketch) -> int:
        key = (sketch.images, sketch.smallest)
        if key not in self._places:
            self._places[key] = len(self._sketches)
            self._enter(sketch, len(self._sketches))
        return self._places[key]

    def _enter(self, sketch: Sketch, place: int) -> None:
        hashes = _hashes(sketch.smallest)
        # Only a sketch with which it shares a digest can overlap: comparing with all would take hours in the long run.
        sharing = {other for value in hashes for other in self._holding.get(value, ())}
        near = [other for other in sharing if overlap(self._sketches[other], sketch) > SHARED]
        for other in near:
            self._near[other].append(place)
        self._holding.update({value: (*self._holding.get(value, ()), place) for value in hashes})
        self._sketches.append(sketch)
        self._looks.append(0)
        self._near.append([*near, place])


def sketch(sha256s: Sequence[str]) -> Sketch:
    """The bottom-k sketch of a test set.

    Args:
        sha256s: SHA-256 of each image, 64 lower-case hex digits; the order does not matter, repeats count once.

    Raises:
        LedgerError: there is none, or something else among them.
    """
    distinct = set(sha256s)
    if not distinct:
        raise LedgerError("the test split has no images, so there is nothing to look at")
    for value in distinct:
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise LedgerError(f"{value!r} is no SHA-256 of a test image; scan the images again")
    smallest = sorted(distinct)[:SKETCH]
    return Sketch(images=len(distinct), smallest="".join(value[:DIGITS] for value in smallest))


def overlap(a: Sketch, b: Sketch) -> float:
    """Estimated share of the images of `a` that are in `b`, or of `b` in `a`, whichever is more: 0 to 1, symmetric.

    Below the smaller of the two limits the sketches hold every image of either test set, a random sample of both; the
    share is counted there. Of two sets of up to `SKETCH` images it is exact; of larger ones of like size its standard
    error is at most 0.03. The sample of the smaller set has about `SKETCH` · (its size) / (the other's) images: one
    that is hundreds of times smaller can pass unseen.
    """
    limit = min(a.limit, b.limit)
    known = min(bisect_right(_hashes(sketch.smallest), limit) for sketch in (a, b))
    return len(_hash_set(a.smallest) & _hash_set(b.smallest)) / known if known else 0.0


@lru_cache(maxsize=4096)
def _hashes(smallest: str) -> tuple[str, ...]:
    """Its digests (ValueError: it is none of `Sketch.smallest`)."""
    if not _SKETCH.fullmatch(smallest):
        raise ValueError("the digests of a sketch are damaged")
    values = tuple(smallest[start : start + DIGITS] for start in range(0, len(smallest), DIGITS))
    if any(first >= second for first, second in pairwise(values)):
        raise ValueError("the digests of a sketch do not ascend")
    return values


@lru_cache(maxsize=4096)
def _hash_set(smallest: str) -> frozenset[str]:
    return frozenset(_hashes(smallest))
