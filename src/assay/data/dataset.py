"""The data set as every later stage sees it: the manifest, where the pixels are, and the names of the classes."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assay import digests
from assay.data import manifest as manifests
from assay.data.measure import measure
from assay.data.shards import SHARD_BYTES, Reader, capacity
from assay.errors import DataError
from assay.preprocess import Geometry

FORMAT = 1

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Dataset:
    """Labelled images after a scan, and after a split if `mean` is given.

    Raises:
        DataError: `manifest` does not have the columns of `MANIFEST`.
    """

    manifest: pa.Table
    """`assay.data.manifest.MANIFEST`, rows by uri."""
    shards: Path
    """Folder of the shard files."""
    geometry: Geometry
    labels: tuple[str, ...]
    """Sorted class names; the place of one is its class id."""
    source: str
    mean: Triple | None = None
    """Of each channel of pixels/255 in the training split; None before the split."""
    std: Triple | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", manifests.conform(self.manifest))

    @cached_property
    def digest(self) -> str:
        """The data digest: over uri, label, given group, sha256 and fault of each row, and the geometry."""
        geometry = [self.geometry.size, self.geometry.fit]
        return digests.of_json([FORMAT, geometry, manifests.content_digest(self.manifest)])

    @cached_property
    def split_digest(self) -> str:
        """Over sha256, uri, group and split of each row."""
        return manifests.split_digest(self.manifest)

    @cached_property
    def usable(self) -> pa.Table:
        """The rows that are not quarantined."""
        faults = pc.field("fault") != ""
        return self.manifest.filter(~faults) if self.manifest.filter(faults).num_rows else self.manifest

    def subset(self, split: str) -> "Subset":
        """The usable rows of one split: train, validation or test."""
        if split not in manifests.SPLITS:
            raise ValueError(f"no split {split!r}: {', '.join(manifests.SPLITS)}")
        return Subset(self.manifest.filter((pc.field("split") == split) & (pc.field("fault") == "")), self)

    def save(self, folder: Path) -> None:
        """Write manifest.parquet and dataset.json to `folder`; the shards stay where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        manifests.write(self.manifest, folder / "manifest.parquet")
        document = {
            "format": FORMAT,
            "manifest_sha256": digests.of_file(folder / "manifest.parquet"),
            "shards": str(self.shards.absolute()),
            "geometry": {"size": self.geometry.size, "fit": self.geometry.fit},
            "labels": self.labels,
            "source": self.source,
            "mean": self.mean,
            "std": self.std,
            "digest": self.digest,
        }
        partial = folder / f".dataset.json.{os.getpid()}.partial"
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(folder / "dataset.json")

    @classmethod
    def load(cls, folder: Path, shards: Path | None = None) -> "Dataset":
        """Read what `save` wrote. `shards` is their folder, if they have moved.

        Raises:
            DataError: something is missing, of another format, or not what was saved.
        """
        document = _document(folder / "dataset.json")
        path = folder / "manifest.parquet"
        table = manifests.read(path)
        if digests.of_file(path) != document["manifest_sha256"]:
            raise DataError(f"{path}: is not the manifest that dataset.json beside it was written for; scan again")
        return cls(
            manifest=table,
            shards=shards or Path(document["shards"]),
            geometry=Geometry(**document["geometry"]),
            labels=tuple(document["labels"]),
            source=document["source"],
            mean=_triple(document["mean"]),
            std=_triple(document["std"]),
        )


class Subset:
    """The usable rows of one split, in the order of their uris, with their pixels."""

    def __init__(self, table: pa.Table, dataset: Dataset) -> None:
        self.table = table.combine_chunks()
        self.geometry, self.labels = dataset.geometry, dataset.labels
        self.targets: np.ndarray = _ids(self.table["label"], dataset.labels)
        """int64 [n]: class ids."""
        self._names = pc.unique(self.table["shard"])
        self._shard: np.ndarray = pc.index_in(self.table["shard"], value_set=self._names).to_numpy()
        self._row: np.ndarray = self.table["row"].to_numpy()
        self._reader = Reader(dataset.shards, dataset.geometry.size)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The pixels of the rows at `indices` (int [m]), in their order: uint8 [m, s, s, 3], a copy.

        Raises:
            DataError: a shard is missing or not what the manifest says.
        """
        indices = np.asarray(indices, dtype=np.int64)
        size = self.geometry.size
        out = np.empty((len(indices), size, size, 3), np.uint8)
        shard, row = self._shard[indices], self._row[indices]
        order = np.lexsort((row, shard))
        starts = np.flatnonzero(np.diff(shard[order], prepend=-1))
        for places in np.split(order, starts[1:]) if len(order) else ():
            self._reader.read(self._names[int(shard[places[0]])].as_py(), row[places], out, places)
        return out


def from_arrays(
    images: np.ndarray,
    labels: Sequence[str],
    folder: Path,
    *,
    uris: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    splits: Sequence[str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Dataset:
    """A data set of pixels that are in memory already, such as generated ones: measured and stored as a scan would.

    Args:
        images: uint8 [n, s, s, 3] RGB.
        labels: class name of each.
        folder: where the shards go.
        uris: name of each; by default its place, with leading zeros, so that rows keep the order of `images`.
        groups: given group of each, or None.
        splits: train, validation or test for each; gives the data set its mean and std too.
        shard_bytes: the most that a shard may hold.
    """
    shards, rows = _store(images, folder, capacity(images.shape[1], shard_bytes))
    measures = [measure(image) for image in images]
    shas = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    n, size = images.shape[:2]
    columns: dict[str, Any] = {
        "uri": uris if uris is not None else [f"{i:08d}" for i in range(n)],
        "label": labels,
        "given_group": groups if groups is not None else [None] * n,
        "bytes": np.full(n, images[0].nbytes if n else 0),
        "sha256": shas,
        "phash": [m.phash for m in measures],
        "width": np.full(n, size),
        "height": np.full(n, size),
        "mode": ["RGB"] * n,
        "format": ["ARRAY"] * n,
        "brightness": [m.brightness for m in measures],
        "contrast": [m.contrast for m in measures],
        **{f"sum_{c}": [m.sums[i] for m in measures] for i, c in enumerate(manifests.CHANNELS)},
        **{f"sumsq_{c}": [m.squares[i] for m in measures] for i, c in enumerate(manifests.CHANNELS)},
        "shard": shards,
        "row": rows,
        "group": shas if splits is not None else [""] * n,
        "split": splits if splits is not None else [""] * n,
    }
    table = manifests.build(columns)
    dataset = Dataset(table, folder, Geometry(size, "squash"), manifests.labels(table), "arrays")
    return with_moments(dataset) if splits is not None else dataset


def with_moments(dataset: Dataset) -> Dataset:
    """`dataset` with the mean and std of its training split.

    Raises:
        DataError: the training split is empty.
    """
    mean, std = manifests.moments(dataset.subset("train").table, dataset.geometry.size)
    return replace(dataset, mean=_triple(mean), std=_triple(std))


def _store(images: np.ndarray, folder: Path, rows_a_shard: int) -> tuple[list[str], np.ndarray]:
    """Write `images` as shards named by their content; the shard and row of each."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for start in range(0, len(images), rows_a_shard):
        piece = np.ascontiguousarray(images[start : start + rows_a_shard])
        name = f"{hashlib.sha256(piece.tobytes()).hexdigest()[:20]}.npy"
        partial = folder / f".{name}.{os.getpid()}.partial"
        with partial.open("wb") as file:
            np.save(file, piece, allow_pickle=False)
        partial.replace(folder / name)
        names += [name] * len(piece)
    return names, np.arange(len(images)) % rows_a_shard


def _ids(column: Any, labels: tuple[str, ...]) -> np.ndarray:
    ids = pc.index_in(column, value_set=pa.array(labels, pa.string()))
    if ids.null_count:
        raise DataError("the manifest has a label that is not among the data set's classes")
    targets: np.ndarray = ids.to_numpy().astype(np.int64)
    return targets


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable data set ({error})") from None
    known = document.get("format") if isinstance(document, dict) else None
    if known != FORMAT:
        raise DataError(f"{path}: format {known!r}, this version reads {FORMAT}; scan again")
    return dict(document)


def _triple(values: Sequence[float] | None) -> Triple | None:
    return None if values is None else (float(values[0]), float(values[1]), float(values[2]))
