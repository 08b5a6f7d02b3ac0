"""What the gate judges by: candidate and champion, both run now on the same test split, image by image."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from assay import digests
from assay.config import Challenges
from assay.console import warn
from assay.data.dataset import Dataset, Subset
from assay.errors import BundleError, DataError
from assay.evaluation import corruptions
from assay.evaluation.attributes import attributes
from assay.evaluation.challenges import challenge
from assay.evaluation.latency import latency
from assay.evaluation.predictions import geometry_clash, predict
from assay.evaluation.tables import partial_of, read_table, table_digest, write_table
from assay.models.abstention import Abstention
from assay.models.bundle import FILES, Bundle

CANDIDATE, CHAMPION, META = "candidate.parquet", "champion.parquet", "evidence.json"
ATTRIBUTES, CHALLENGES = "attributes.parquet", "challenges.parquet"
NO_CHALLENGES = Challenges()

_Optional = Literal["champion.parquet", "attributes.parquet", "challenges.parquet"]


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
    bundle_bytes: int | None = None
    """Size of the candidate's files; None: not measured."""
    latency_ms: tuple[float, ...] = ()
    """Of the candidate, for single images; see `latency.latency`."""
    parity: float | None = None
    """Largest absolute difference of a probability between the candidate's ONNX and torch model."""
    abstention: Abstention | None = None
    """Of the candidate; None: it always answers."""


@dataclass(frozen=True)
class Evidence:
    """What candidate and champion said about the test split, and what else the gate can ask about.

    `candidate`, and `champion` if there is one that runs, are tables of `predictions.PREDICTIONS`. The others are None
    where they were not made; a policy that needs them then has nothing to judge by.
    """

    folder: Path
    """Where `save` writes."""
    candidate: pa.Table
    champion: pa.Table | None
    meta: EvidenceMeta
    attributes: pa.Table | None = None
    """`slices.ATTRIBUTES` of the images, in the order of `candidate`."""
    challenges: pa.Table | None = None
    """`challenges.CHALLENGES` of the candidate."""

    @cached_property
    def digest(self) -> str:
        """Identity of the evidence: over the meta data and the tables, their latencies left out."""
        tables = {name: table_digest(table) for name, table in self._tables().items()}
        return digests.of_json({"meta": self.meta.model_dump(mode="json"), "tables": tables})

    def save(self) -> None:
        """Write the tables as Parquet, and last the meta data, which vouches for them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tables = self._tables()
        for name in (CANDIDATE, CHAMPION, ATTRIBUTES, CHALLENGES):
            if name in tables:
                write_table(tables[name], self.folder / name)
            else:
                (self.folder / name).unlink(missing_ok=True)
        document = _Document(meta=self.meta, beside=sorted(tables.keys() - {CANDIDATE}), digest=self.digest)
        partial = partial_of(self.folder / META)
        partial.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / META)

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """Read what `save` wrote.

        Raises:
            DataError: something is missing, unreadable, or not what was saved.
        """
        document = _read_document(folder / META)
        champion, measured, challenged = (
            read_table(folder / name) if name in document.beside else None
            for name in (CHAMPION, ATTRIBUTES, CHALLENGES)
        )
        evidence = cls(folder, read_table(folder / CANDIDATE), champion, document.meta, measured, challenged)
        if evidence.digest != document.digest:
            raise DataError(f"{folder}: the evidence was altered after it was written; evaluate again")
        return evidence

    def _tables(self) -> dict[str, pa.Table]:
        """Name of the file to each table that there is."""
        named = {CANDIDATE: self.candidate, CHAMPION: self.champion}
        named |= {ATTRIBUTES: self.attributes, CHALLENGES: self.challenges}
        return {name: table for name, table in named.items() if table is not None}


@dataclass(frozen=True)
class Champion:
    """The version that is served now, or that would be."""

    version: str
    bundle: Bundle | None
    fault: str | None = None
    """Why there is no bundle."""


def gather(
    candidate: Bundle,
    champion: Champion | None,
    dataset: Dataset,
    use_case: str,
    folder: Path,
    challenges: Challenges = NO_CHALLENGES,
) -> Evidence:
    """Run both models on the test split, the candidate on its challenges too, and save what they say.

    A champion that cannot be run, or not on this split, becomes a `champion_fault`: the gate refuses, because nobody
    knows how the candidate compares.

    Args:
        candidate: exported from `dataset`.
        champion: None if there is none.
        dataset: after its split.
        use_case: its name.
        folder: where the evidence is written.
        challenges: what the candidate is shown beside the test split.

    Raises:
        ConfigError: a challenge is unknown.
        BundleError: the candidate cannot be run on the split.
        DataError: the images cannot be read.
    """
    corruptions.check(challenges.corruptions)  # before an hour's work and not after
    test = dataset.subset("test")
    if candidate.meta.labels != dataset.labels:
        clash = _labels_clash(candidate, dataset.labels)
        raise BundleError(f"{candidate.folder}: {clash}; export it from this data set")
    table = predict(candidate, test)
    rival, fault = _run_champion(champion, test, dataset.labels)
    if fault:
        warn("evaluate", f"the champion was not compared: {fault}")
    challenged = challenge(candidate, test, challenges)
    meta = EvidenceMeta(
        use_case=use_case,
        candidate_digest=candidate.digest,
        champion_digest=champion.bundle.digest if champion and champion.bundle else None,
        champion_version=champion.version if champion else None,
        champion_fault=fault,
        split_digest=dataset.split_digest,
        data_digest=dataset.digest,
        labels=dataset.labels,
        bundle_bytes=sum(len(candidate.read(name)) for name in FILES),
        latency_ms=latency(candidate, test, challenges.latency),
        parity=candidate.meta.parity.max_abs_difference,
        abstention=candidate.meta.abstention,
    )
    evidence = Evidence(folder, table, rival, meta, attributes(test), challenged if challenged.num_rows else None)
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
    beside: tuple[_Optional, ...]
    """Files of the tables that there are beside the candidate's."""
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
