"""Which rows of a manifest belong together: the same file, nearly the same picture, or one given group.

Nearly the same picture is found in two steps. The perceptual hashes of the manifest give the candidates, in
(near-)linear time. A hash of 64 bits says too little of pictures that are alike in their low frequencies (clothes on
black, plain surfaces), and what is linked wrongly is linked to all that its neighbours are linked to. So each candidate
is then confirmed on the stored pixels: `unexplained` says how much of one picture the other leaves unexplained.

What the constants below say of recall was measured on 400 synthetic concrete surfaces and 474 tiles of photographs (227
pixels, stored at 128), each against its copies: JPEG of quality 60 to 95, resized by 0.5 to 2, 10% brighter or darker,
cropped or moved by 1 or 2 pixels, and a mixture of these.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from assay.console import progress
from assay.data.dataset import Dataset, Subset
from assay.data.manifest import CHANNELS

MAX_DISTANCE = 6
"""Bits in which the hashes of candidates differ at most. So far apart are 99% of the copies of concrete (88% of those
moved by 2 pixels both ways) and 91% of the copies of photographs, but no two of 3,000 different surfaces and no two of
950 different tiles. With 8 bits, 94% of the photographs' copies would be found, at many times the work."""

SAME_BELOW = 0.05
"""Candidates are the same picture where `unexplained` is below this: 99% of the copies that are candidates. Of the
161,579 candidate pairs in the 60,000 pictures of Fashion-MNIST it takes 120, in groups of 4 pictures at most; nearly
all of them are the same garment to the eye. Plain correlation cannot tell those from shirts of one cut."""

FLAT_BELOW = 0.5
"""A picture is flat if no channel's standard deviation reaches this many levels (of 255). Nothing tells two flat
pictures apart but their colour, and their hashes are noise: they are the same if their mean colours, in whole levels,
are. That is an equivalence, so that a row of ever brighter grey pictures does not become one group."""

WINDOW = 64
"""Each hash is compared with this many others at most of those that share a part with it. Only where hashes are
degenerate do more than a few share one; this bounds the time there. In Fashion-MNIST (60,000) no window finds more."""

_BANDS = 9  # of 64 bits in 9 bands, 6 that differ leave 3 bands alike
_ALIKE = _BANDS - MAX_DISTANCE
_EDGES = [round(64 * band / _BANDS) for band in range(_BANDS + 1)]
_MASKS = [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(_EDGES)]

_COLUMNS = ("label", "given_group", "sha256", "phash", *(f"{sum_}_{c}" for sum_ in ("sum", "sumsq") for c in CHANNELS))
_COLUMNS += ("shard", "row")

_SIDE, _BORDER = 32, 2
_PAIRS, _IMAGES = 2048, 64
_BRIGHTNESS_RATIO, _COLOUR_LEVELS, _CONTRAST_RATIO = 1.3, 8.0, 1.5
_MAX_GAIN, _MAX_DISPLACEMENT = 1.6, 1.0

Array = np.ndarray


@dataclass(frozen=True)
class Relations:
    """The usable rows as a graph: a node for each picture (distinct content), then one for each given group."""

    pictures: int
    nodes: int
    node: Array
    """int64 [usable rows]: the node of each row's picture."""
    edges: Array
    """int64 [m, 2]: nodes that belong together."""

    def groups(self) -> Array:
        """int64 [usable rows]: rows that are linked, directly or through others, have the same number."""
        numbers: Array = components(self.nodes, self.edges)[self.node]
        return numbers


def relate(dataset: Dataset, near_duplicates: bool = True) -> Relations:
    """Link the usable rows of `dataset` that have one content, are nearly one picture, or have one given group.

    Args:
        dataset: rows without stored pixels (no shard) are compared by hash, colour and contrast alone.
        near_duplicates: whether pictures that are only nearly the same are linked.

    Raises:
        DataError: a shard is missing or not what the manifest says.
    """
    rows = usable(dataset, *_COLUMNS)
    node, first = distinct(rows["sha256"])
    edges = [_given(rows["given_group"], node, len(first))]
    if near_duplicates:
        edges.append(near_pairs(rows.take(pa.array(first)), dataset))
    named = pc.count_distinct(rows["given_group"], mode="only_valid").as_py()
    return Relations(len(first), len(first) + named, node, np.concatenate(edges))


def usable(dataset: Dataset, *columns: str) -> pa.Table:
    """Some columns of the usable rows. All columns of a million rows would be 250 MB more."""
    return dataset.manifest.select([*columns, "fault"]).filter(pc.field("fault") == "").select(list(columns))


def distinct(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """The number of each value, in order of first appearance, and the place where each number first appears.

    int64 [n] and int64 [distinct values].
    """
    number = pc.dictionary_encode(column).combine_chunks().indices.to_numpy().astype(np.int64)
    return number, np.unique(number, return_index=True)[1]


def components(nodes: int, edges: Array) -> Array:
    """int64 [nodes]: the number of each node's connected component, given `edges` int64 [m, 2]."""
    # Edges that come repeatedly are added up: in a type in which that many don't overflow to 0.
    graph = coo_array((np.ones(len(edges), np.int32), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    numbers: Array = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers


def near_pairs(pictures: pa.Table, dataset: Dataset) -> Array:
    """Pairs of rows of `pictures` that are nearly the same picture.

    Args:
        pictures: rows of the manifest, each of another content.
        dataset: whose shards hold their pixels.

    Returns:
        int64 [m, 2], in no particular order. Which pairs are found depends on the contents, never on the rows' order.
    """
    means, deviations = _colours(pictures, dataset.geometry.size)
    flat: Array = deviations.max(axis=1) < FLAT_BELOW
    rank = pc.rank(pictures["sha256"]).to_numpy()
    order = np.lexsort((rank, means.sum(axis=1), pictures["phash"].to_numpy()))
    order = order[~flat[order]]
    pairs = order[candidates(pictures["phash"].to_numpy()[order])]
    pairs = pairs[_may_be_same(means, deviations, pairs)]
    return np.concatenate([pairs[_same_pixels(pairs, pictures, dataset)], _flat_pairs(np.flatnonzero(flat), means)])


def candidates(hashes: Array) -> Array:
    """Pairs of places in `hashes` (uint64 [n]) whose hashes differ in `MAX_DISTANCE` bits at most: int32 [m, 2].

    Multi-index hashing (Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing",
    2014): cut in 9 bands, two such hashes agree in at least 3 of them; so for each choice of 3 bands, only hashes that
    agree there are compared. Those are few: 3 bands are 21 bits or more. Each pair comes once, under the first 3 bands
    in which it agrees. Complete while no more than `WINDOW` hashes agree in 3 bands.
    """
    found = [np.empty((0, 2), np.int32)]
    for chosen in combinations(range(_BANDS), _ALIKE):
        skipped = [_MASKS[band] for band in range(chosen[-1]) if band not in chosen]
        parts, places = _by_bands(hashes, chosen)
        for left, right in _neighbours(parts):
            pairs = np.stack([places[left], places[right]], axis=1)
            differing = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
            near = np.bitwise_count(differing) <= MAX_DISTANCE
            for band in skipped:
                near &= (differing & band) != 0
            found.append(pairs[near])
    return np.concatenate(found)


def unexplained(a: Array, b: Array) -> Array:
    """The share of each picture's structure that its partner does not explain: float64 [n], 0 is the same picture.

    `b` is fitted, by least squares, with what `a` would be if it were a little brighter, of more contrast, moved or
    stretched: b = gain a + offset + (dx + sx x) da/dx + (dy + sy y) da/dy, the first-order registration of Lucas and
    Kanade ("An Iterative Image Registration Technique", 1981), with the derivatives of the mean of both. What remains,
    as root mean square over the standard deviation of the weaker of both pictures, is the result; infinity where the
    gain or a displacement is out of bounds.

    Args:
        a, b: float32 [n, 32, 32] of `thumbnails`.
    """
    inner = slice(_BORDER, _SIDE - _BORDER)
    dy, dx = np.gradient((a + b) / 2, axis=(1, 2))
    place = np.linspace(-1, 1, _SIDE, dtype=np.float32)
    terms = [np.ones_like(a), a, dx, dy, dx * place, dy * place[:, None]]
    x = np.stack([term[:, inner, inner].reshape(len(a), -1) for term in terms], axis=1).astype(np.float64)
    y = b[:, inner, inner].reshape(len(b), -1).astype(np.float64)
    # The ridge is small beside any texture; it keeps displacements at 0 where the pictures say nothing of them.
    normal = x @ x.transpose(0, 2, 1) + 1e-3 * y.shape[1] * np.eye(len(terms))
    weights = np.linalg.solve(normal, x @ y[:, :, None])
    remainder = y - (x.transpose(0, 2, 1) @ weights)[:, :, 0]
    deviation = np.maximum(np.minimum(x[:, 1].std(axis=1), y.std(axis=1)), 1e-3)
    gain, displacement = weights[:, 1, 0], np.abs(weights[:, 2:, 0]).max(axis=1)
    bounded = (gain > 1 / _MAX_GAIN) & (gain < _MAX_GAIN) & (displacement < _MAX_DISPLACEMENT * np.abs(gain))
    return np.where(bounded, np.sqrt((remainder**2).mean(axis=1)) / deviation, np.inf)


def thumbnails(pixels: Array) -> Array:
    """Smoothed luminance of uint8 [n, s, s, 3] pixels: float32 [n, 32, 32], 0 to 255.

    Smooth enough for its derivatives to say what a displacement by a fraction of a thumbnail's pixel does.
    """
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    shrink = _shrinking(pixels.shape[1])
    small: Array = shrink @ luminance @ shrink.T
    return small


@lru_cache(maxsize=8)
def _shrinking(size: int) -> Array:
    """float32 [32, size]: the means over 32 equal stretches of `size` pixels, smoothed twice by (1, 2, 1) / 4."""
    ends = np.linspace(0, size, _SIDE + 1)
    pixel = np.arange(size)
    overlap = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    rows: Array = np.clip(overlap, 0, None) * _SIDE / size
    for _ in range(2):
        padded = np.pad(rows, ((1, 1), (0, 0)), mode="edge")
        rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray(rows, np.float32)


def _by_bands(hashes: Array, chosen: tuple[int, ...]) -> tuple[Array, Array]:
    """The chosen bands of each hash, sorted, and the places of the hashes in that order; equal ones keep theirs."""
    # Bands and place in one number: sorting numbers takes half the time of an argsort.
    packed, shift = np.arange(len(hashes), dtype=np.uint64), 32
    for band in chosen:
        packed |= ((hashes & _MASKS[band]) >> np.uint64(_EDGES[band])) << np.uint64(shift)
        shift += _EDGES[band + 1] - _EDGES[band]
    packed.sort()
    parts: Array = packed >> np.uint64(32)
    return parts, (packed & np.uint64(0xFFFFFFFF)).astype(np.int32)


def _neighbours(keys: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs of places with the same key in sorted `keys`, at most `WINDOW` places apart."""
    left = np.flatnonzero(keys[1:] == keys[:-1])
    for step in range(1, WINDOW + 1):
        if not left.size:
            return
        yield left, left + step
        left = left[left + step + 1 < len(keys)]
        left = left[keys[left + step + 1] == keys[left]]


def _given(column: pa.ChunkedArray, node: Array, pictures: int) -> Array:
    """Links each picture to the nodes of its given groups, which are numbered from `pictures`."""
    group = pc.dictionary_encode(column).combine_chunks().indices
    places = np.flatnonzero(group.is_valid().to_numpy(zero_copy_only=False))
    numbers = group.drop_null().to_numpy().astype(np.int64)
    return np.stack([node[places], pictures + numbers], axis=1)


def _colours(pictures: pa.Table, size: int) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel, in levels of 0 to 255: float64 [n, 3] each."""
    n = size * size
    means = np.stack([pictures[f"sum_{c}"].to_numpy() for c in CHANNELS], axis=1) / n
    squares = np.stack([pictures[f"sumsq_{c}"].to_numpy() for c in CHANNELS], axis=1) / n
    return means, np.sqrt(np.maximum(squares - means**2, 0))


def _may_be_same(means: Array, deviations: Array, pairs: Array) -> Array:
    """Whether colour and contrast allow each pair to be one picture, but for its brightness: bool [m]."""
    a, b = means[pairs[:, 0]], means[pairs[:, 1]]
    ratio = (b.sum(axis=1) + 1) / (a.sum(axis=1) + 1)
    bright = np.abs(np.log(ratio)) < np.log(_BRIGHTNESS_RATIO)
    colour = (np.abs(b - a * ratio[:, None]) < _COLOUR_LEVELS).all(axis=1)
    strength = np.linalg.norm(deviations, axis=1) + 1
    contrast = np.abs(np.log(strength[pairs[:, 0]] / strength[pairs[:, 1]])) < np.log(_CONTRAST_RATIO)
    allowed: Array = bright & colour & contrast
    return allowed


def _flat_pairs(places: Array, means: Array) -> Array:
    """Links each of the flat pictures at `places` to the next one of its colour."""
    colour = np.rint(means[places]).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    order = np.argsort(colour, kind="stable")
    alike = np.flatnonzero(np.diff(colour[order]) == 0)
    return places[np.stack([order[alike], order[alike + 1]], axis=1)]


def _same_pixels(pairs: Array, pictures: pa.Table, dataset: Dataset) -> Array:
    """Whether the stored pixels of each pair are the same picture; True where there are none: bool [m]."""
    stored = pc.not_equal(pictures["shard"], "").to_numpy(zero_copy_only=False)
    same = np.ones(len(pairs), bool)
    comparable = np.flatnonzero(stored[pairs].all(axis=1))
    subset = Subset(pictures, dataset)
    with progress("split", len(comparable), "pairs compared") as advance:
        for start in range(0, len(comparable), _PAIRS):
            chunk = comparable[start : start + _PAIRS]
            places, index = np.unique(pairs[chunk], return_inverse=True)
            small, index = _read_thumbnails(subset, places), index.reshape(-1, 2)
            same[chunk] = unexplained(small[index[:, 0]], small[index[:, 1]]) < SAME_BELOW
            advance(len(chunk))
    return same


def _read_thumbnails(subset: Subset, places: Array) -> Array:
    parts = [thumbnails(subset.read(places[start : start + _IMAGES])) for start in range(0, len(places), _IMAGES)]
    return np.concatenate(parts)
