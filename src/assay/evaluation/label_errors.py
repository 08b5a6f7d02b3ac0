"""Test images whose label is probably wrong: confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70), by cleanlab.

It is asked about the test split, where the model's probabilities are out of sample: it was fitted on the training
split and chosen on the validation split, and would repeat a wrong label that it has learnt.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.evaluation.predictions import class_ids, probabilities

FEW_CLASSES = 1000
"""Up to here the full method, whose memory is quadratic in the classes; beyond, cleanlab's linear approximation."""


@dataclass(frozen=True)
class Suspect:
    """An image that the model contradicts more than its mistakes explain."""

    row: int
    """Place in the table of predictions."""
    uri: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


def suspects(table: pa.Table, labels: tuple[str, ...]) -> tuple[Suspect, ...]:
    """Suspected label errors, most suspicious first: that with the lowest probability of its label.

    Args:
        table: `PREDICTIONS` of images that the model was not trained on.
        labels: class names in the order of column `p`.

    Returns:
        None where there is nothing to compare: fewer than two classes occur, or the probabilities are not numbers.
    """
    given = class_ids(table, labels)
    p = probabilities(table, len(labels))
    if len(np.unique(given)) < 2 or not np.isfinite(p).all():
        return ()
    rows = _issues(given, p)
    uris: list[Any] = table["uri"].take(rows).to_pylist()
    best = p[rows].argmax(axis=1)
    return tuple(
        Suspect(int(row), uri, labels[given[row]], labels[top], float(p[row, given[row]]), float(p[row, top]))
        for row, uri, top in zip(rows, uris, best, strict=True)
    )


def _issues(given: NDArray[np.int64], p: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows, most suspicious first. Classes without an image are left out, as cleanlab asks for."""
    present, ids = np.unique(given, return_inverse=True)
    kept = p[:, present].astype(np.float64) + 1e-12
    kept /= kept.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "it has too few examples": the report says how many there are
        if len(present) > FEW_CLASSES:
            from cleanlab.experimental.label_issues_batched import find_label_issues_batched

            found = find_label_issues_batched(ids, kept, n_jobs=1, verbose=False)
        else:
            from cleanlab.filter import find_label_issues

            found = find_label_issues(ids, kept, n_jobs=1, return_indices_ranked_by="self_confidence")
    rows = np.asarray(found, np.int64)
    return rows[np.argsort(kept[rows, ids[rows]], kind="stable")]
