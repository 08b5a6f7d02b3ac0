import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.errors import LedgerError
from assay.gate.looks import DIGITS, SHARED, SKETCH, Sketch, Tally, overlap, sketch

from ledgers import digest, images

POOL = images(400)
SETS = st.sets(st.sampled_from(POOL), min_size=1, max_size=SKETCH)
ANY_SETS = st.sets(st.sampled_from(POOL), min_size=1)
LARGE = images(20_000)


def share(a: set[str], b: set[str]) -> float:
    return len(a & b) / min(len(a), len(b))


@given(ANY_SETS, st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_matter(chosen: set[str], chance: random.Random) -> None:
    shuffled = [*chosen, *list(chosen)[:5]]
    chance.shuffle(shuffled)
    assert sketch(shuffled) == sketch(sorted(chosen))


@given(SETS, SETS)
def test_small_test_sets_are_compared_exactly(a: set[str], b: set[str]) -> None:
    assert overlap(sketch([*a]), sketch([*b])) == share(a, b)


@given(ANY_SETS, ANY_SETS)
def test_overlap_is_a_symmetric_share(a: set[str], b: set[str]) -> None:
    there, back = overlap(sketch([*a]), sketch([*b])), overlap(sketch([*b]), sketch([*a]))
    assert there == back
    assert 0 <= there <= 1


@given(ANY_SETS)
def test_a_test_set_overlaps_itself_in_full(a: set[str]) -> None:
    assert overlap(sketch([*a]), sketch([*a])) == 1


@given(ANY_SETS, ANY_SETS)
def test_what_shares_no_image_does_not_overlap(a: set[str], b: set[str]) -> None:
    others = [digest(value) for value in b]
    assert overlap(sketch([*a]), sketch(others)) == 0


@pytest.mark.parametrize("part", [2_000, 10_000, 19_990])
def test_a_part_of_a_test_set_is_recognised(part: int) -> None:
    assert overlap(sketch(LARGE[:part]), sketch(LARGE)) == 1


@pytest.mark.parametrize("shift", [500, 2_000, 4_000, 5_000, 9_000])
def test_overlap_of_large_test_sets_is_estimated(shift: int) -> None:
    estimated = overlap(sketch(LARGE[:10_000]), sketch(LARGE[shift : shift + 10_000]))
    assert estimated == pytest.approx(1 - shift / 10_000, abs=0.12)


def test_a_sketch_stays_small() -> None:
    assert len(sketch(LARGE).smallest) == SKETCH * DIGITS
    assert sketch(LARGE).images == 20_000


@pytest.mark.parametrize("value", ["", "ab", digest("x").upper(), digest("x") + "0", "g" * 64])
def test_what_is_no_digest_is_refused(value: str) -> None:
    with pytest.raises(LedgerError, match="is no SHA-256 of a test image"):
        sketch([digest("x"), value])


def test_an_empty_test_set_is_refused() -> None:
    with pytest.raises(LedgerError, match="has no images"):
        sketch([])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[DIGITS:],
        lambda text: text[DIGITS:] + text[:DIGITS],
        lambda text: text[:DIGITS] + text[:-DIGITS],
        lambda text: "x" + text[1:],
        lambda text: "",
    ],
)
def test_a_damaged_sketch_is_refused(damage: Callable[[str], str]) -> None:
    good = sketch(images(20))
    with pytest.raises(ValidationError, match="digests"):
        Sketch(images=20, smallest=damage(good.smallest))


@given(st.lists(SETS, min_size=1, max_size=12), st.lists(st.integers(0, 11), max_size=12))
def test_looks_at_overlapping_test_sets_count_together(sets: list[set[str]], order: list[int]) -> None:
    tally, asked = Tally(), [sets[number % len(sets)] for number in order]
    for chosen in asked:
        tally.add(sketch([*chosen]))
    for chosen in sets:
        assert tally.count(sketch([*chosen])) == sum(share(chosen, other) > SHARED for other in asked)


def test_a_test_set_of_which_little_is_shared_counts_for_itself() -> None:
    tally = Tally()
    tally.add(sketch(images(100)))
    assert tally.count(sketch(images(100, first=90))) == 0
    assert tally.count(sketch(images(100, first=89))) == 1
