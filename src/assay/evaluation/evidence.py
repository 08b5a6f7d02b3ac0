"""What the gate judges by: candidate and champion, both run now on the same test split, image by image."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from assay import digests
from assay.console import warn
from assay.data.dataset import Dataset, Subset
from assay.errors import BundleError, DataError
from assay.evaluation.predictions import geometry_clash, predict
from assay.models.bundle import Bundle

CANDIDATE, CHAMPION, META = "candidate.parquet", "champion.parquet", "evidence.json"
UNSTABLE = ("latency_ms",)
"""Columns that differ between two runs of the same model."""


class EvidenceMeta(BaseModel):
    """What the tables were made from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_case: str
    candidate_digest: str
    champion_digest: str | None = None
    champion_version: str | None = None
    champion_fault: str | None = None
    """Why a champion that exists could not be run."""
    split_digest: str
    data_digest: str
    labels: tuple[str, ...]
    """Class names in the order of column `p`."""


@dataclass(frozen=True)
class Evidence:
    """Predictions (`predictions.PREDICTIONS`) of the candidate, and of the champion if there is one that runs."""

    folder: Path
    """Where `save` writes."""
    candidate: pa.Table
    champion: pa.Table | None
    meta: EvidenceMeta

    @cached_property
    def digest(self) -> str:
        """Identity of the evidence: over the meta data and the tables, their latencies left out."""
        tables = {CANDIDATE: _table_digest(self.candidate)}
        if self.champion is not None:
            tables[CHAMPION] = _table_digest(self.champion)
        return digests.of_json({"meta": self.meta.model_dump(mode="json"), "tables": tables})

    def save(self) -> None:
        """Write the tables as Parquet, and last the meta data, which vouches for them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_table(self.candidate, self.folder / CANDIDATE)
        if self.champion is None:
            (self.folder / CHAMPION).unlink(missing_ok=True)
        else:
            _write_table(self.champion, self.folder / CHAMPION)
        document = _Document(meta=self.meta, champion=self.champion is not None, digest=self.digest)
        partial = _partial(self.folder / META)
        partial.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / META)

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """Read what `save` wrote.

        Raises:
            DataError: something is missing, unreadable, or not what was saved.
        """
        document = _read_document(folder / META)
        champion = _read_table(folder / CHAMPION) if document.champion else None
        evidence = cls(folder, _read_table(folder / CANDIDATE), champion, document.meta)
        if evidence.digest != document.digest:
            raise DataError(f"{folder}: the evidence was altered after it was written; evaluate again")
        return evidence


@dataclass(frozen=True)
class Champion:
    """The version that is served now, or that would be."""

    version: str
    bundle: Bundle | None
    fault: str | None = None
    """Why there is no bundle."""


def gather(candidate: Bundle, champion: Champion | None, dataset: Dataset, use_case: str, folder: Path) -> Evidence:
    """Run both models on the test split and save what they say.

    A champion that cannot be run, or not on this split, becomes a `champion_fault`: the gate refuses, because nobody
    knows how the candidate compares.

    Args:
        candidate: exported from `dataset`.
        champion: None if there is none.
        dataset: after its split.
        use_case: its name.
        folder: where the evidence is written.

    Raises:
        BundleError: the candidate cannot be run on the split.
        DataError: the images cannot be read.
    """
    test = dataset.subset("test")
    if candidate.meta.labels != dataset.labels:
        clash = _labels_clash(candidate, dataset.labels)
        raise BundleError(f"{candidate.folder}: {clash}; export it from this data set")
    table = predict(candidate, test)
    rival, fault = _run_champion(champion, test, dataset.labels)
    if fault:
        warn("evaluate", f"the champion was not compared: {fault}")
    evidence = Evidence(
        folder,
        table,
        rival,
        EvidenceMeta(
            use_case=use_case,
            candidate_digest=candidate.digest,
            champion_digest=champion.bundle.digest if champion and champion.bundle else None,
            champion_version=champion.version if champion else None,
            champion_fault=fault,
            split_digest=dataset.split_digest,
            data_digest=dataset.digest,
            labels=dataset.labels,
        ),
    )
    evidence.save()
    return evidence


def _run_champion(
    champion: Champion | None, test: Subset, labels: tuple[str, ...]
) -> tuple[pa.Table | None, str | None]:
    """Its predictions, or why there are none."""
    if champion is None:
        return None, None
    if champion.bundle is None:
        return None, champion.fault or "its bundle is missing"
    if champion.bundle.meta.labels != labels:
        return None, f"it {_labels_clash(champion.bundle, labels)}"
    if champion.bundle.meta.geometry != test.geometry:
        return None, f"it {geometry_clash(champion.bundle, test)}"
    try:
        return predict(champion.bundle, test), None
    except BundleError as error:
        return None, str(error)


def _labels_clash(bundle: Bundle, labels: tuple[str, ...]) -> str:
    strange, unknown = set(bundle.meta.labels) - set(labels), set(labels) - set(bundle.meta.labels)
    parts = [f"knows {_some(strange)}, which the data lacks"] if strange else []
    parts += [f"does not know {_some(unknown)}"] if unknown else []
    return " and ".join(parts) or "has the labels in another order than the data"


def _some(labels: set[str]) -> str:
    shown = ", ".join(repr(label) for label in sorted(labels)[:3])
    return f"{shown} and {len(labels) - 3:,} more" if len(labels) > 3 else shown


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    meta: EvidenceMeta
    champion: bool
    """Whether there is a table of it."""
    digest: str


def _read_document(path: Path) -> _Document:
    try:
        return _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give the folder of an evaluation") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(f"{path}: {where}: {first['msg']}; evaluate again") from None


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}; evaluate again") from None


def _write_table(table: pa.Table, path: Path) -> None:
    partial = _partial(path)
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _table_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and values of the columns that do not vary from run to run, in order of names."""
    state = hashlib.sha256()
    # By place and not by name: the gate refuses a table with a column twice, and has its digest on the refusal.
    for name, place in sorted((name, place) for place, name in enumerate(table.column_names) if name not in UNSTABLE):
        column: Any = table.column(place).combine_chunks()
        lengths = None
        if pa.types.is_list(column.type):
            lengths = column.value_lengths().to_pylist()
            column = column.flatten()
        state.update(digests.canonical_json([name, str(column.type), len(column), lengths]))
        state.update(_values(column))
    return state.hexdigest()


def _values(column: Any) -> bytes:
    if pa.types.is_floating(column.type):
        # A number that is missing counts as one that is not a number: the gate refuses both.
        numbers = column.to_numpy(zero_copy_only=False)
        return bytes(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())
    return digests.canonical_json([None if value is None else str(value) for value in column.to_pylist()])
