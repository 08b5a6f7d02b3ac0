"""Which rows are for training, validation and test: decided by a hash of the group, so that it stays as it is.

A group is everything that is the same picture (`assay.data.duplicates`) or has one given group. Its key is the given
group's name, or else the smallest sha256 of its members; a hash of seed and key is its place between 0 and 1, and the
shares cut that range. Nothing depends on which other groups there are: a file that joins no group moves nothing.

A file that joins a group could change its key, and one that links two groups would move one of them. So where an
earlier manifest is given, what it has placed stays; new files follow the group that they join.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assay.config import SplitConfig
from assay.console import warn
from assay.data import duplicates
from assay.data.dataset import Dataset, Triple
from assay.data.duplicates import Relations, usable
from assay.data.manifest import CHANNELS, SPLITS, moments
from assay.errors import DataError

LEAST_STD = 1 / 255
"""A channel that is the same everywhere has no deviation to divide by: one level is taken instead."""

LARGE_GROUP = 0.1
"""A group of more than this share of the rows is worth a warning: the splits can't come out as asked."""

_NAMED = 5
Array = np.ndarray


@dataclass(frozen=True)
class _Placed:
    """What an earlier manifest has placed: distinct contents, with the group and the split of each."""

    sha256: pa.Array
    group: pa.Array
    split: Array
    """int64 [n]: place in `SPLITS`."""


@dataclass(frozen=True)
class _Parts:
    """What is new, in parts: those rows that are linked to each other without any that is placed already."""

    rows: Array
    """int64 [new rows]: their places among the usable rows."""
    part: Array
    """int64 [new rows]: the part of each."""
    links: Array
    """int64 [links, 3]: the part, the placed row that it is linked to, and whether a given group links them."""

    @property
    def count(self) -> int:
        return int(self.part.max(initial=-1)) + 1


@dataclass(frozen=True)
class _Assignment:
    """Of each usable row, in their order: the key of its group ("" in quarantine), and its split (-1 in quarantine)."""

    group: pa.Array
    split: Array
    faults: dict[int, str]
    """Why a row is quarantined, by its place."""


def split(dataset: Dataset, config: SplitConfig, previous: pa.Table | None = None) -> Dataset:
    """Fill group and split of the manifest's usable rows, and mean and std of the training split.

    Args:
        dataset: after a scan.
        config: shares, seed, and whether near duplicates are one group.
        previous: an earlier manifest (sha256, group, split). What it has placed, by content, keeps group and split,
            whatever `config` says. A new row follows the rows that it is grouped with. If those are in different
            splits, it is quarantined: wherever it were put, one split would know another's pictures.

    Raises:
        DataError: a class has no sample in a split; `previous` contradicts itself; a shard is not there.
    """
    rows = usable(dataset, "uri", "given_group", "sha256")
    if not rows.num_rows:
        raise DataError(f"{dataset.source}: not one usable image to split")
    relations = duplicates.relate(dataset, config.near_duplicates)
    _warn_of_large_group(relations, rows["uri"])
    assignment = _assign(rows, relations, _placed(previous), config)
    result = replace(dataset, manifest=_filled(dataset.manifest, assignment))
    _require_every_class(result, config)
    mean, std = _moments(result)
    return replace(result, mean=mean, std=std)


def place(key: str, seed: int) -> float:
    """The place of a group in [0, 1), uniform over keys: the same on every machine, whatever else there is."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _placed(previous: pa.Table | None) -> _Placed:
    if previous is None:
        return _Placed(pa.array([], pa.string()), pa.array([], pa.string()), np.empty(0, np.int64))
    rows = previous.select(["sha256", "group", "split"]).filter(pc.field("split") != "")
    number, first = duplicates.distinct(rows["sha256"])
    split_number = pc.index_in(rows["split"], value_set=pa.array(SPLITS))
    if split_number.null_count:
        raise DataError(f"the earlier manifest has splits other than {', '.join(SPLITS)}; split without it")
    columns = duplicates.distinct(rows["group"])[0], split_number.to_numpy().astype(np.int64)
    if any((column != column[first][number]).any() for column in columns):
        raise DataError("the earlier manifest has one content in two groups or splits; split without it")
    sha256, group = (
        rows[name].take(pa.array(first)).combine_chunks().cast(pa.string()) for name in ("sha256", "group")
    )
    return _Placed(sha256, group, columns[1][first])


def _assign(rows: pa.Table, relations: Relations, placed: _Placed, config: SplitConfig) -> _Assignment:
    at = _places(rows["sha256"].combine_chunks(), placed.sha256)
    parts = _new_parts(relations, at)
    keys = _fresh_keys(rows.select(["given_group", "sha256"]).take(pa.array(parts.rows)), parts)
    known = _places(keys, placed.group)
    # A key that was used before means what it meant before, although its members are gone.
    part_split = np.where(known >= 0, np.append(placed.split, -1)[known], _by_hash(keys, config))
    # Groups are named by their places in `names`: first those that are placed, then the new ones.
    names = pa.concat_arrays([placed.group, keys, pa.array([""])])
    part_group = len(placed.group) + np.arange(parts.count)
    _follow(part_group, part_split, parts, at, placed)
    faults = _contradictions(rows["uri"], parts, at, placed)
    group, where = at.copy(), np.append(placed.split, -1)[at]
    group[parts.rows], where[parts.rows] = part_group[parts.part], part_split[parts.part]
    refused = np.isin(parts.part, list(faults))
    group[parts.rows[refused]], where[parts.rows[refused]] = len(names) - 1, -1
    reasons = {int(row): faults[int(part)] for row, part in zip(parts.rows[refused], parts.part[refused], strict=True)}
    return _Assignment(names.take(pa.array(group)), where, reasons)


def _places(values: pa.Array, of: pa.Array) -> Array:
    """Where each value stands in `of`, -1 where it does not: int64 [n]."""
    found: Array = pc.index_in(values, value_set=of).fill_null(-1).to_numpy().astype(np.int64)
    return found


def _new_parts(relations: Relations, at: Array) -> _Parts:
    """Cut the graph of rows where it meets what is placed: `at` >= 0, int64 [usable rows]."""
    row_of = np.full(relations.nodes, -1)
    row_of[relations.node[::-1]] = np.arange(len(at))[::-1]
    old = np.zeros(relations.nodes, bool)
    old[relations.node] = at >= 0
    edges = relations.edges
    inside = ~old[edges].any(axis=1)
    component = duplicates.components(relations.nodes, edges[inside])
    rows = np.flatnonzero(at < 0)
    kept, part = np.unique(component[relations.node[rows]], return_inverse=True)
    number = np.full(relations.nodes, -1)
    number[kept] = np.arange(len(kept))
    crossing = edges[old[edges].sum(axis=1) == 1]
    crossing = np.where(old[crossing[:, :1]], crossing[:, ::-1], crossing)
    new, met = crossing[:, 0], crossing[:, 1]
    links = np.stack([number[component[new]], row_of[met], new >= relations.pictures], axis=1)
    return _Parts(rows, part, links[links[:, 0] >= 0])


def _fresh_keys(rows: pa.Table, parts: _Parts) -> pa.Array:
    """The key of each part: the first of its given groups' names, or else its smallest sha256."""
    given = rows["given_group"]
    key = pc.if_else(pc.is_valid(given), pc.binary_join_element_wise("group", given, ":"), rows["sha256"])
    table = pa.table({"part": parts.part, "unnamed": pc.is_null(given), "key": key})
    table = table.take(pc.sort_indices(table, [(name, "ascending") for name in table.column_names]))
    first = np.unique(table["part"].to_numpy(), return_index=True)[1]
    return table["key"].take(pa.array(first)).combine_chunks()


def _by_hash(keys: pa.Array, config: SplitConfig) -> Array:
    """int64 [n]: the split of each key."""
    places = np.fromiter((place(key, config.seed) for key in keys.to_pylist()), float, len(keys))
    return np.searchsorted([config.train, config.train + config.validation], places, side="right")


def _follow(part_group: Array, part_split: Array, parts: _Parts, at: Array, placed: _Placed) -> None:
    """Give the parts that are linked to placed rows those rows' split, and of their groups the first by name."""
    part, met = parts.links[:, 0], at[parts.links[:, 1]]
    rank = pc.rank(placed.group, tiebreaker="first").to_numpy()[met] if len(met) else met
    order = np.lexsort((rank, part))
    linked, first = np.unique(part[order], return_index=True)
    part_group[linked] = met[order][first]
    part_split[linked] = placed.split[met[order][first]]


def _contradictions(uris: pa.ChunkedArray, parts: _Parts, at: Array, placed: _Placed) -> dict[int, str]:
    """Why a part is quarantined, by its number: it is linked to rows in more than one split."""
    part, row, by_group = parts.links.T
    where = placed.split[at[row]]
    order = np.lexsort((row, where, part))
    seen = np.unique(np.stack([part, where], axis=1)[order], axis=0, return_index=True)
    examples: dict[int, list[str]] = {}
    for (number, split_number), first in zip(seen[0].tolist(), seen[1].tolist(), strict=True):
        uri = uris[int(row[order][first])].as_py()
        examples.setdefault(number, []).append(f"{uri} in {SPLITS[split_number]}")
    named = set(part[by_group > 0].tolist())
    return {
        number: f"{_RELATION[number in named]} as samples in {_COUNT[len(found)]} splits ({', '.join(found)})"
        for number, found in examples.items()
        if len(found) > 1
    }


_RELATION = {False: "nearly the same picture", True: "the same group or nearly the same picture"}
_COUNT = {2: "two", 3: "three"}


def _filled(manifest: pa.Table, assignment: _Assignment) -> pa.Table:
    """`manifest` with the assignment of its usable rows."""
    usable = pc.equal(manifest["fault"], "").combine_chunks()
    places = np.flatnonzero(usable.to_numpy(zero_copy_only=False))
    blank = pa.repeat("", manifest.num_rows)
    where = pa.array([*SPLITS, ""]).take(pa.array(assignment.split % 4))
    faults = manifest["fault"].combine_chunks()
    if assignment.faults:
        mask = np.zeros(manifest.num_rows, bool)
        mask[places[sorted(assignment.faults)]] = True
        reasons = [assignment.faults[row] for row in sorted(assignment.faults)]
        faults = pc.replace_with_mask(faults, pa.array(mask), pa.array(reasons))
    columns = {
        "fault": faults,
        "group": pc.replace_with_mask(blank, usable, assignment.group),
        "split": pc.replace_with_mask(blank, usable, where),
    }
    for name, column in columns.items():
        manifest = manifest.set_column(manifest.schema.get_field_index(name), name, column)
    return manifest


def _warn_of_large_group(relations: Relations, uris: pa.ChunkedArray) -> None:
    groups = relations.groups()
    sizes = np.bincount(groups)
    largest = int(sizes.argmax())
    if sizes[largest] > max(LARGE_GROUP * len(groups), 2):
        uri = uris[int(np.flatnonzero(groups == largest)[0])].as_py()
        share = f"{sizes[largest]:,} of {len(groups):,} images"
        warn("split", f"{share} are one group, that of {uri!r}: one split gets them all")


def _moments(dataset: Dataset) -> tuple[Triple, Triple]:
    """Mean and std of each channel in the training split."""
    sums = [f"{name}_{channel}" for name in ("sum", "sumsq") for channel in CHANNELS]
    training = dataset.manifest.select([*sums, "split"]).filter(pc.field("split") == "train")
    mean, std = moments(training, dataset.geometry.size)
    return _triple(mean), _triple(tuple(max(value, LEAST_STD) for value in std))


def _triple(values: tuple[float, ...]) -> Triple:
    return values[0], values[1], values[2]


def _require_every_class(dataset: Dataset, config: SplitConfig) -> None:
    """Raise a DataError that names the classes that a split lacks."""
    rows = usable(dataset, "label", "group", "split")
    label = pc.index_in(rows["label"], value_set=pa.array(dataset.labels, pa.string())).to_numpy()
    where = pc.index_in(rows["split"], value_set=pa.array(SPLITS)).to_numpy()
    counts = np.bincount(label * 3 + where, minlength=3 * len(dataset.labels)).reshape(-1, 3)
    lacking = np.flatnonzero((counts == 0).any(axis=1))
    if len(lacking):
        named = "; ".join(_lacks(dataset.labels[c], rows, counts[c]) for c in lacking[:_NAMED])
        raise DataError(f"{named}{_remedy(len(lacking), config)}")


def _lacks(label: str, rows: pa.Table, counts: Array) -> str:
    missing = [name for name, count in zip(SPLITS, counts, strict=True) if not count]
    groups = pc.count_distinct(rows.filter(pc.field("label") == label)["group"]).as_py()
    count = int(counts.sum())
    images = f"{count} usable image{'s' * (count != 1)} in {groups} group{'s' * (groups != 1)}"
    return f"class {label!r} ({images}) has none in {' and '.join(missing)}"


def _remedy(lacking: int, config: SplitConfig) -> str:
    more = f"; and {lacking - _NAMED:,} more classes" if lacking > _NAMED else ""
    return f"{more}. Add different pictures of it, take the class out, or give split another seed than {config.seed}"
