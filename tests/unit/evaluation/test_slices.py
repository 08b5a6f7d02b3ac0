import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.config import Slice, Slices
from assay.errors import ConfigError
from assay.evaluation.slices import ATTRIBUTES, KNOWN, members, resolve


def table(**columns: list[object]) -> pa.Table:
    n = len(next(iter(columns.values())))
    return pa.table({name: columns.get(name, [None] * n) for name in ATTRIBUTES.names}, schema=ATTRIBUTES)


def inside(part: Slice, labels: list[str] | None = None, **columns: list[object]) -> list[bool]:
    attributes = table(**columns)
    return members(part, attributes, labels or ["crack"] * attributes.num_rows).tolist()


def test_every_known_slice_is_under_its_own_name_and_of_a_column_that_there_is() -> None:
    assert resolve(Slices(of=tuple(KNOWN)), ATTRIBUTES.names) == tuple(KNOWN.values())
    assert [part.name for part in KNOWN.values()] == list(KNOWN)


def test_names_and_slices_of_ones_own_come_in_their_order() -> None:
    own = Slice(name="wide", column="width", above=1000)
    assert resolve(Slices(of=(own, "dark")), ATTRIBUTES.names) == (own, KNOWN["dark"])


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ("foggy", "no slice is called 'foggy'; known: dark, bright,"),
        (Slice(name="old", column="age", above=3), "'old': no column 'age'; known: uri, given_group,"),
        (Slice(name="grey", column="mode", above=3), "mode holds text; give `equals` and a text"),
        (Slice(name="grey", column="mode", equals=3), "mode holds text"),
        (Slice(name="wide", column="width", equals="1000"), "width holds numbers; give a number"),
    ],
)
def test_what_cannot_be_resolved_says_why(item: str | Slice, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        resolve(Slices(of=(item,)), ATTRIBUTES.names)


def test_two_slices_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="'dark' stands twice"):
        resolve(Slices(of=("dark", Slice(name="dark", column="brightness", below=0.1))), ATTRIBUTES.names)


def test_bounds_are_not_inside() -> None:
    values: list[object] = [0.1, 0.2, 0.3, 0.4]
    assert inside(Slice(name="s", column="contrast", below=0.3), contrast=values) == [True, True, False, False]
    assert inside(Slice(name="s", column="contrast", above=0.3), contrast=values) == [False, False, False, True]
    assert inside(Slice(name="s", column="contrast", above=0.1, below=0.4), contrast=values) == [
        False,
        True,
        True,
        False,
    ]
    assert inside(Slice(name="s", column="contrast", equals=0.3), contrast=values) == [False, False, True, False]


def test_text_and_whole_numbers() -> None:
    assert inside(Slice(name="s", column="mode", equals="L"), mode=["L", "RGB", None]) == [True, False, False]
    assert inside(Slice(name="s", column="width", equals=64), width=[64, 65]) == [True, False]
    assert inside(Slice(name="s", column="width", above=63.5), width=[64, 63]) == [True, False]


def test_a_label_narrows_the_slice() -> None:
    part = Slice(name="s", column="brightness", below=0.5, label="crack")
    assert inside(part, ["crack", "intact", "crack"], brightness=[0.1, 0.1, 0.9]) == [True, False, False]


@given(st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1), st.floats(-10, 10), st.booleans())
def test_what_is_missing_is_never_a_member(values: list[float | None], bound: float, above: bool) -> None:
    part = Slice(name="s", column="sharpness", **{"above" if above else "below": bound})
    edge = np.float32(bound)
    expected = [v is not None and not np.isnan(v) and bool(v > edge if above else v < edge) for v in values]
    assert inside(part, sharpness=list(values)) == expected


def test_a_table_cut_in_chunks_gives_the_same() -> None:
    whole = table(brightness=[0.1, 0.9, None, 0.2])
    cut = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    labels = np.array(["a"] * 4, dtype=object)
    assert members(KNOWN["dark"], cut, labels).tolist() == [True, False, False, True]


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="no column 'brightness'"):
        members(KNOWN["dark"], pa.table({"uri": ["a"]}), ["crack"])
