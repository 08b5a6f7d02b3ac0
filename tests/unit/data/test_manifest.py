from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data import manifest
from assay.errors import DataError

TEXT = st.text(max_size=4)
ROW = st.fixed_dictionaries(
    {"uri": TEXT, "label": TEXT, "given_group": st.none() | TEXT, "sha256": TEXT, "fault": TEXT, "stamp": TEXT}
)


def table(rows: list[dict[str, str | None]]) -> pa.Table:
    return manifest.build({name: [row[name] for row in rows] for name in rows[0]})


def small() -> pa.Table:
    return manifest.build({"uri": ["b", "a", "c"], "label": ["x", "y", "x"], "sha256": ["2", "1", "3"]})


def test_build_sorts_by_uri_and_fills_what_is_not_given() -> None:
    built = small()
    assert built.schema == manifest.MANIFEST
    assert built["uri"].to_pylist() == ["a", "b", "c"]
    assert built["label"].to_pylist() == ["y", "x", "x"]
    assert built["given_group"].to_pylist() == [None] * 3
    assert built["row"].to_pylist() == [-1] * 3
    assert built["fault"].to_pylist() == [""] * 3
    assert built["sum_r"].to_pylist() == [0] * 3


@given(rows=st.lists(ROW, min_size=1, max_size=6), order=st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_order_in_which_rows_are_given_does_not_show(rows: list[dict[str, str | None]], order: object) -> None:
    unique = list({(row["uri"], row["label"], row["given_group"]): row for row in rows}.values())
    shuffled = list(unique)
    order.shuffle(shuffled)
    assert table(shuffled).equals(table(unique))


@given(rows=st.lists(ROW, min_size=2, max_size=6), cut=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_digest_does_not_see_how_arrow_has_cut_the_table(rows: list[dict[str, str | None]], cut: int) -> None:
    whole = table(rows)
    pieces = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert manifest.content_digest(pieces) == manifest.content_digest(whole)


@given(rows=st.lists(ROW, min_size=1, max_size=4), data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_digest_changes_exactly_with_the_content(rows: list[dict[str, str | None]], data: st.DataObject) -> None:
    before = table(rows)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(["label", "given_group", "sha256", "fault"]))
    value = data.draw(TEXT)
    after = table([*rows[:row], {**rows[row], column: value}, *rows[row + 1 :]])
    content = ["uri", "label", "given_group", "sha256", "fault"]
    same = before.select(content).equals(after.select(content))
    assert (manifest.content_digest(before) == manifest.content_digest(after)) == same


@pytest.mark.parametrize("column", ["stamp", "shard", "group", "split", "mode"])
def test_the_content_digest_does_not_see(column: str) -> None:
    other = small().set_column(small().column_names.index(column), column, pa.array(["p", "q", "r"]))
    assert manifest.content_digest(other) == manifest.content_digest(small())


@pytest.mark.parametrize("column", ["uri", "sha256", "group", "split"])
def test_the_split_digest_sees(column: str) -> None:
    other = small().set_column(small().column_names.index(column), column, pa.array(["p", "q", "r"]))
    assert manifest.split_digest(other) != manifest.split_digest(small())


def test_values_that_run_together_alike_have_different_digests() -> None:
    one = manifest.build({"uri": ["ab", "c"], "label": ["", ""]})
    other = manifest.build({"uri": ["a", "bc"], "label": ["", ""]})
    assert manifest.content_digest(one) != manifest.content_digest(other)


def test_no_group_is_not_an_empty_group() -> None:
    none = manifest.build({"uri": ["a"], "given_group": [None]})
    empty = manifest.build({"uri": ["a"], "given_group": [""]})
    assert manifest.content_digest(none) != manifest.content_digest(empty)


def test_conform_puts_columns_in_order_and_drops_others() -> None:
    odd = small().select(manifest.MANIFEST.names[::-1]).append_column("extra", pa.array([1, 2, 3]))
    assert manifest.conform(odd).schema == manifest.MANIFEST


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop_columns(["sha256", "row"]), "lacks the columns sha256, row"),
        (lambda t: t.set_column(0, "uri", pa.array(["a", None, "c"])), "nulls in uri"),
        (lambda t: t.set_column(4, "bytes", pa.array(["many", "x", "y"])), "another type"),
        (lambda t: t.set_column(4, "bytes", pa.array([[1], [2], [3]])), "another type"),
    ],
)
def test_conform_refuses_what_is_no_manifest(damage: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        manifest.conform(damage(small()))


def test_labels_are_sorted_and_include_those_of_quarantined_rows() -> None:
    built = manifest.build({"uri": ["1", "2", "3"], "label": ["b", "c", "a"], "fault": ["", "", "broken"]})
    assert manifest.labels(built) == ("a", "b", "c")


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), highest=st.sampled_from([1, 2, 256]))
@settings(max_examples=25, deadline=None)
def test_moments_are_those_of_all_pixels(seed: int, n: int, highest: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, highest, (n, 4, 4, 3), dtype=np.uint8)
    exact = pixels.astype(np.uint64)
    columns = {"uri": [str(i) for i in range(n)]}
    for i, channel in enumerate("rgb"):
        columns[f"sum_{channel}"] = exact[..., i].sum((1, 2))
        columns[f"sumsq_{channel}"] = (exact[..., i] ** 2).sum((1, 2))
    mean, std = manifest.moments(manifest.build(columns), 4)
    assert mean == pytest.approx((pixels / 255).mean((0, 1, 2)), abs=1e-12)
    assert std == pytest.approx((pixels / 255).std((0, 1, 2)), abs=1e-7)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        manifest.moments(small().slice(0, 0), 4)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest.write(small(), tmp_path / "t.parquet")
    assert manifest.read(tmp_path / "t.parquet").equals(small())


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    manifest.write(small(), path)

    def half(_: pa.Table, where: Path, **__: object) -> None:
        where.write_bytes(b"PAR1 and then the disk was full")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="No space left"):
        manifest.write(small().slice(0, 1), path)
    monkeypatch.undo()
    assert manifest.read(path).equals(small())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_what_is_no_parquet_is_refused_with_its_path(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet: not readable"):
        manifest.read(tmp_path / "t.parquet")
