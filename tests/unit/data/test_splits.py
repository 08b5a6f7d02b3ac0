import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.config import SplitConfig
from assay.data import manifest
from assay.data.dataset import Dataset, from_arrays
from assay.data.duplicates import relate
from assay.data.manifest import SPLITS
from assay.data.splits import LEAST_STD, place, split
from assay.errors import DataError
from assay.preprocess import Geometry

SIZE = 16
CONFIG = SplitConfig()


@dataclass(frozen=True)
class Item:
    """A picture of a generated data set: `content` names the file's bytes; pictures of one family look alike."""

    content: int
    family: int
    group: str | None = None
    label: str = "a"
    fault: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(str(self.content).encode()).hexdigest()

    @property
    def phash(self) -> int:
        word = hashlib.sha256(f"family {self.family}".encode()).digest()[:8]
        return int.from_bytes(word, "big") ^ (1 << self.content % 64)


def dataset(items: Sequence[Item], uris: Sequence[str] | None = None) -> Dataset:
    """Rows without stored pixels, so that the hash alone says what looks alike."""
    n, area = len(items), SIZE * SIZE
    columns = {
        "uri": uris if uris is not None else [f"{item.content:06d}.png" for item in items],
        "label": [item.label for item in items],
        "given_group": [item.group for item in items],
        "sha256": [item.sha256 for item in items],
        "phash": [item.phash for item in items],
        "fault": [item.fault for item in items],
        **{f"sum_{channel}": np.full(n, 128 * area) for channel in "rgb"},
        **{f"sumsq_{channel}": np.full(n, (128**2 + 40**2) * area) for channel in "rgb"},
    }
    table = manifest.build(columns)
    return Dataset(table, Path("nowhere"), Geometry(SIZE, "squash"), manifest.labels(table), "generated")


def column(whole: Dataset, name: str) -> dict[str, str]:
    """A column of the usable rows, by content."""
    usable = whole.usable
    return dict(zip(usable["sha256"].to_pylist(), usable[name].to_pylist(), strict=True))


FILLER = [Item(content=100_000 + i, family=100_000 + i) for i in range(60)]
"""Enough unrelated pictures that every split has one."""

ITEMS = st.builds(
    lambda content, family: Item(content, family, group=(None, None, "east", "west")[content % 4]),
    content=st.integers(0, 400),
    family=st.integers(0, 12),
)
BATCHES = st.lists(st.lists(ITEMS, max_size=12), min_size=1, max_size=4)


def distinct(items: Sequence[Item]) -> list[Item]:
    """One item a content: a file's picture and its given group do not change."""
    return list({item.content: item for item in reversed(items)}.values())


def grown(batches: list[list[Item]]) -> list[Dataset]:
    """A data set that grows batch by batch, each time split with the manifest before."""
    present: list[Item] = list(FILLER)
    splits: list[Dataset] = []
    for batch in batches:
        present = distinct([*batch, *present][::-1])
        splits.append(split(dataset(present), CONFIG, splits[-1].manifest if splits else None))
    return splits


@given(BATCHES)
@settings(max_examples=25, deadline=None)
def test_growth_never_moves_a_sample(batches: list[list[Item]]) -> None:
    steps = grown(batches)
    for before, after in itertools.pairwise(steps):
        for name in ("split", "group"):
            old, new = column(before, name), column(after, name)
            assert {sha: new[sha] for sha in old} == old


@given(BATCHES)
@settings(max_examples=25, deadline=None)
def test_nothing_that_belongs_together_is_in_two_splits(batches: list[list[Item]]) -> None:
    for step in grown(batches):
        usable = step.usable
        for groups in (relate(step).groups().tolist(), usable["group"].to_pylist()):
            assert len(set(zip(groups, usable["split"].to_pylist(), strict=True))) == len(set(groups))


@given(BATCHES)
@settings(max_examples=12, deadline=None)
def test_without_an_earlier_manifest_a_file_that_joins_nothing_moves_nothing(batches: list[list[Item]]) -> None:
    present = distinct([*FILLER, *(item for batch in batches for item in batch)])
    alone = [Item(content=200_000 + i, family=200_000 + i) for i in range(20)]
    before, after = split(dataset(present), CONFIG), split(dataset([*alone, *present]), CONFIG)
    for name in ("split", "group"):
        old, new = column(before, name), column(after, name)
        assert {sha: new[sha] for sha in old} == old


@given(st.lists(ITEMS, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None)
def test_neither_order_nor_names_of_the_files_matter(items: list[Item], random: object) -> None:
    present = distinct([*FILLER, *items])
    names = [f"{i:04d}" for i in range(len(present))]
    random.shuffle(names)  # type: ignore[attr-defined]
    straight, shuffled = split(dataset(present), CONFIG), split(dataset(present, names), CONFIG)
    for name in ("split", "group"):
        assert column(straight, name) == column(shuffled, name)


def test_shares_are_what_is_asked() -> None:
    n = 20_000
    whole = split(dataset([Item(content=i, family=i) for i in range(n)]), SplitConfig(near_duplicates=False))
    for name, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        rows = pc.sum(pc.equal(whole.manifest["split"], name)).as_py()
        assert abs(rows / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_another_seed_is_another_assignment() -> None:
    items = [Item(content=i, family=i) for i in range(2000)]
    one, two = (column(split(dataset(items), SplitConfig(seed=seed)), "split") for seed in (1, 2))
    apart = np.mean([one[sha] != two[sha] for sha in one])
    assert abs(apart - (1 - 0.70**2 - 2 * 0.15**2)) < 0.05


def test_the_place_of_a_group_is_fixed_for_ever() -> None:
    assert place("group:bridge 7", 42) == 0.13827938025101283


def test_a_group_is_named_by_the_given_group_or_else_by_its_smallest_sha256() -> None:
    alike = [Item(content=1, family=1), Item(content=2, family=1)]
    named = [
        Item(content=3, family=2, group="wall"),
        Item(content=4, family=2),
        Item(content=5, family=3, group="pier"),
    ]
    groups = column(split(dataset([*FILLER, *alike, *named]), CONFIG), "group")
    assert {groups[item.sha256] for item in alike} == {min(item.sha256 for item in alike)}
    assert [groups[item.sha256] for item in named] == ["group:wall", "group:wall", "group:pier"]


def test_the_same_file_under_two_names_is_in_one_split() -> None:
    twice = [Item(content=7, family=7), Item(content=7, family=7)]
    whole = split(
        dataset([*FILLER, *twice], [f"{i}" for i in range(len(FILLER) + 2)]), SplitConfig(near_duplicates=False)
    )
    rows = whole.usable.filter(pc.equal(whole.usable["sha256"], twice[0].sha256))
    assert rows.num_rows == 2
    assert len(rows["split"].unique()) == 1


def placed(whole: Dataset, **splits: Sequence[Item]) -> pa.Table:
    """`whole`'s manifest with the items of each named split moved there, as an earlier run may have had them."""
    moved = {item.sha256: name for name, items in splits.items() for item in items}
    shas, before = whole.manifest["sha256"].to_pylist(), whole.manifest["split"].to_pylist()
    after = [moved.get(sha, old) for sha, old in zip(shas, before, strict=True)]
    return whole.manifest.set_column(whole.manifest.schema.get_field_index("split"), "split", pa.array(after))


A, B = Item(content=0, family=500), Item(content=1, family=501)


@pytest.mark.parametrize("name", SPLITS)
def test_a_new_sample_follows_the_group_that_it_joins(name: str) -> None:
    earlier = placed(split(dataset([*FILLER, A]), CONFIG), **{name: [A]})
    joining = [replace(A, content=2), replace(A, content=3)]
    now = split(dataset([*FILLER, A, *joining]), CONFIG, earlier)
    assert {column(now, "split")[item.sha256] for item in joining} == {name}
    assert {column(now, "group")[item.sha256] for item in joining} == {A.sha256}


def with_hashes(items: dict[Item, int]) -> Dataset:
    """The items, each with the perceptual hash given, beside the filler."""
    whole = dataset([*FILLER, *items])
    hashes = {item.sha256: value for item, value in items.items()}
    rows = zip(whole.manifest["sha256"].to_pylist(), whole.manifest["phash"].to_pylist(), strict=True)
    values = pa.array([hashes.get(sha, value) for sha, value in rows], pa.uint64())
    return replace(
        whole, manifest=whole.manifest.set_column(whole.manifest.schema.get_field_index("phash"), "phash", values)
    )


def test_a_new_sample_between_two_splits_is_quarantined_and_no_other() -> None:
    hashes = {A: 0, B: 0b111111111111}
    between, beside = Item(content=2, family=502), Item(content=3, family=503)
    earlier = placed(split(with_hashes(hashes), CONFIG), train=[A], test=[B])
    now = split(with_hashes({**hashes, between: 0b111111, beside: 1 << 40}), CONFIG, earlier)
    row = now.manifest.filter(pc.equal(now.manifest["sha256"], between.sha256)).to_pylist()[0]
    told = "nearly the same picture as samples in two splits (000000.png in train, 000001.png in test)"
    assert (row["fault"], row["group"], row["split"]) == (told, "", "")
    assert [column(now, "split")[item.sha256] for item in (A, B, beside)] == ["train", "test", "train"]


def test_a_new_sample_of_a_given_group_in_two_splits_is_quarantined() -> None:
    here, there, new = (Item(content=i, family=600 + i, group="pier") for i in range(3))
    earlier = placed(split(dataset([*FILLER, here, there]), CONFIG), validation=[here], test=[there])
    now = split(dataset([*FILLER, here, there, new]), CONFIG, earlier)
    assert column(now, "split").get(new.sha256) is None
    assert "same group" in now.manifest.filter(pc.equal(now.manifest["sha256"], new.sha256))["fault"][0].as_py()


def test_a_group_that_comes_back_is_where_it_was() -> None:
    first, later = (Item(content=i, family=700 + i, group="pier") for i in range(2))
    for name in SPLITS:
        earlier = placed(split(dataset([*FILLER, first]), CONFIG), **{name: [first]})
        assert column(split(dataset([*FILLER, later]), CONFIG, earlier), "split")[later.sha256] == name


def test_what_is_placed_stays_whatever_the_shares_are_now() -> None:
    earlier = split(dataset(FILLER), CONFIG)
    now = split(dataset(FILLER), SplitConfig(train=0.1, validation=0.1, test=0.8, seed=9), earlier.manifest)
    assert column(now, "split") == column(earlier, "split")


def test_quarantined_rows_are_in_no_split() -> None:
    broken = replace(A, fault="truncated")
    now = split(dataset([*FILLER, broken]), CONFIG)
    row = now.manifest.filter(pc.equal(now.manifest["sha256"], broken.sha256)).to_pylist()[0]
    assert (row["fault"], row["group"], row["split"]) == ("truncated", "", "")


def test_a_class_that_a_split_lacks_is_named() -> None:
    lonely = Item(content=1, family=1, label="crack")
    with pytest.raises(
        DataError, match=r"class 'crack' \(1 usable image in 1 group\) has none in .* and .*\. Add"
    ) as told:
        split(dataset([*FILLER, lonely]), CONFIG)
    assert "\n" not in str(told.value)


def test_a_class_whose_images_are_all_quarantined_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'crack' \(0 usable images in 0 groups\) has none in train and valid"):
        split(dataset([*FILLER, Item(content=1, family=1, label="crack", fault="truncated")]), CONFIG)


def test_of_many_classes_that_a_split_lacks_a_few_are_named() -> None:
    items = [Item(content=i, family=i, label=f"class {i:05d}") for i in range(10_000)]
    with pytest.raises(DataError, match=r"class 'class 00004' .*and 9,995 more classes") as told:
        split(dataset(items), SplitConfig(near_duplicates=False))
    assert len(str(told.value)) < 800


def test_no_usable_image_is_an_error() -> None:
    with pytest.raises(DataError, match="not one usable image"):
        split(dataset([replace(A, fault="truncated")]), CONFIG)


def test_an_earlier_manifest_that_contradicts_itself_is_refused() -> None:
    earlier = split(dataset(FILLER), CONFIG).manifest
    twice = pa.concat_tables([earlier, placed(split(dataset(FILLER), CONFIG), test=FILLER)])
    with pytest.raises(DataError, match="one content in two groups or splits"):
        split(dataset(FILLER), CONFIG, twice)


def test_an_earlier_manifest_with_other_splits_is_refused() -> None:
    earlier = placed(split(dataset(FILLER), CONFIG), holdout=FILLER[:1])
    with pytest.raises(DataError, match="splits other than train, validation, test"):
        split(dataset(FILLER), CONFIG, earlier)


def test_a_group_that_is_a_large_share_of_the_data_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    split(dataset([*FILLER, *(Item(content=i, family=1) for i in range(20))]), CONFIG)
    assert "20 of 80 images are one group" in capsys.readouterr().err


def test_mean_and_std_are_those_of_the_training_pixels_alone(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, SIZE, SIZE, 3), dtype=np.uint8)
    images[..., 2] = 90
    whole = split(from_arrays(images, ["a"] * 60, tmp_path), CONFIG)
    training = whole.subset("train").read(np.arange(len(whole.subset("train")))) / 255
    assert whole.mean == pytest.approx(training.mean(axis=(0, 1, 2)), abs=1e-12)
    assert whole.std == pytest.approx([*training.std(axis=(0, 1, 2))[:2], LEAST_STD], abs=1e-9)
