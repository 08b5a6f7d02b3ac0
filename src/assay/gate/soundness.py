"""Whether predictions can be judged at all. Everything here names what is wrong; nothing here raises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.evaluation.challenges import CHALLENGES
from assay.evaluation.predictions import PREDICTIONS, class_ids, probabilities

if TYPE_CHECKING:
    from assay.evaluation.evidence import Evidence

SUM_TOLERANCE = 1e-4
"""Float32 sums of 10,000 probabilities stray by 1e-5."""

IDENTITY = ("uri", "sha256", "label", "group")
"""Columns in which candidate and champion must agree row by row: they saw the same images."""


@dataclass(frozen=True)
class Answers:
    """Sound predictions, image by image."""

    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    """Class ids, [n]."""
    predicted: NDArray[np.int64]
    """Class ids, [n]."""
    probabilities: NDArray[np.float32]
    """[n, k]."""
    groups: NDArray[np.int64]
    """Number of each image's group, [n]."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, [n]."""
        matches: NDArray[np.bool_] = self.targets == self.predicted
        return matches

    @property
    def clustered(self) -> bool:
        """Whether some group has several images, which then are not independent of each other."""
        return len(np.unique(self.groups)) < len(self.groups)


def examine(table: pa.Table, labels: tuple[str, ...]) -> tuple[Answers | None, list[str]]:
    """The answers in a table of `PREDICTIONS`, or None and everything that is wrong with it."""
    problems = _labels_problems(labels) or _schema_problems(table) or _value_problems(table)
    if problems:
        return None, problems
    targets, predicted = (class_ids(table, labels, name) for name in ("label", "predicted"))
    problems = [
        f"{_rows(ids < 0)} {verb} a label that is no class of the data"
        for ids, verb in ((targets, "have"), (predicted, "were given"))
        if (ids < 0).any()
    ]
    problems += _probability_problems(table, predicted, len(labels))
    if problems:
        return None, problems
    groups = table["group"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return Answers(labels, targets, predicted, probabilities(table, len(labels)), groups), []


def mismatches(candidate: pa.Table, champion: pa.Table) -> list[str]:
    """How two sound tables differ in the images that they are about."""
    if candidate.num_rows != champion.num_rows:
        return [f"the candidate was run on {candidate.num_rows:,} images, the champion on {champion.num_rows:,}"]
    equal = {name: pc.equal(candidate[name], champion[name]).to_numpy() for name in IDENTITY}
    return [
        f"candidate and champion differ in the {name} of {_rows(~same)}: they were not run on the same test split"
        for name, same in equal.items()
        if not same.all()
    ]


def attributes_problems(evidence: "Evidence") -> list[str]:
    """What is wrong with the attributes of the test images, if there are any."""
    table = evidence.attributes
    if table is None:
        return []
    if table.column_names.count("uri") != 1 or not table["uri"].equals(evidence.candidate["uri"]):
        return ["the attributes are not those of the test images; evaluate again"]
    return []


def challenges_problems(evidence: "Evidence") -> list[str]:
    """What is wrong with the answers to the challenges, if there are any."""
    table = evidence.challenges
    if table is None:
        return []
    if not table.schema.equals(CHALLENGES):
        return ["the challenges are no table of challenges; evaluate again"]
    own = table.filter(pc.field("kind") != "unfamiliar")
    if any(table[name].null_count for name in CHALLENGES.names if name != "label") or own["label"].null_count:
        return ["the challenges lack values; evaluate again"]
    if pc.index_in(own["uri"], value_set=evidence.candidate["uri"].combine_chunks()).null_count:
        return ["challenges: some are about images that are not in the test split"]
    return _challenged(table, len(evidence.meta.labels))


def _challenged(table: pa.Table, k: int) -> list[str]:
    try:
        finite = np.isfinite(probabilities(table, k)).all(axis=1)
    except ValueError as error:
        return [f"challenges: {error}"]
    return [] if finite.all() else [f"challenges: the probabilities of {_rows(~finite)} are not numbers"]


def _labels_problems(labels: Sequence[str]) -> list[str]:
    if not labels:
        return ["the evidence names no classes"]
    return ["the evidence names a class twice"] if len(set(labels)) < len(labels) else []


def _schema_problems(table: pa.Table) -> list[str]:
    names = table.column_names
    wrong = [
        f"{field.name} {'is missing' if names.count(field.name) == 0 else 'is not one column of ' + str(field.type)}"
        for field in PREDICTIONS
        if names.count(field.name) != 1 or table.schema.field(field.name).type != field.type
    ]
    return [f"the predictions are no table of predictions: {', '.join(wrong)}"] if wrong else []


def _value_problems(table: pa.Table) -> list[str]:
    if not table.num_rows:
        return ["there is no image in the test split"]
    nulls = [field.name for field in PREDICTIONS if table[field.name].null_count]
    if nulls:
        return [f"values are missing in {', '.join(nulls)}"]
    repeated = table.num_rows - pc.count_distinct(table["uri"]).as_py()
    return [f"{repeated:,} rows repeat an image that another row has"] if repeated else []


def _probability_problems(table: pa.Table, predicted: NDArray[np.int64], k: int) -> list[str]:
    try:
        p = probabilities(table, k)
    except ValueError as error:
        return [str(error)]
    finite = np.isfinite(p).all(axis=1)
    if not finite.all():
        return [f"the probabilities of {_rows(~finite)} are not numbers"]
    off: NDArray[np.bool_] = (np.abs(p.sum(axis=1, dtype=np.float64) - 1) > SUM_TOLERANCE) | (p.min(axis=1) < 0)
    if off.any():
        return [f"the probabilities of {_rows(off)} are no distribution: one is negative, or their sum is not 1"]
    other: NDArray[np.bool_] = (predicted >= 0) & (p[np.arange(len(p)), predicted] < p.max(axis=1))
    return [f"{_rows(other)} were not given their most probable label: wrong class order"] if other.any() else []


def _rows(mask: Any) -> str:
    return f"{np.count_nonzero(mask):,} of {len(mask):,} images"
