"""The table of what a model said about each image of a split."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.console import progress
from assay.data.dataset import Subset
from assay.errors import BundleError
from assay.models.bundle import Bundle
from assay.models.predictor import MAX_BATCH, Predictor

PREDICTIONS = pa.schema(
    [
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("p", pa.list_(pa.float32())),  # in the order of the bundle's labels
        ("predicted", pa.string()),
        # Milliseconds of the image's batch over the images in it, reading apart: throughput. An image that comes
        # alone takes longer.
        ("latency_ms", pa.float32()),
    ]
)


def predict(bundle: Bundle, subset: Subset, threads: int | None = None) -> pa.Table:
    """Give every image of a split to the exported model, as serving would.

    Args:
        bundle: the model.
        subset: images stored in the bundle's geometry.
        threads: of the predictor; None leaves it to the runtime.

    Returns:
        `PREDICTIONS`, one row an image, in the order of `subset`.

    Raises:
        BundleError: the images have another geometry than the model, it cannot be run, or its output is not finite.
        DataError: the images cannot be read.
    """
    check_geometry(bundle, subset)
    predictor = Predictor(bundle, threads)
    parts, latency = [], []
    with progress("evaluate", len(subset), "images") as advance:
        for start in range(0, len(subset), MAX_BATCH):
            pixels = subset.read(np.arange(start, min(start + MAX_BATCH, len(subset))))
            begin = time.perf_counter()
            parts.append(predictor.probabilities(pixels))
            latency += [1000 * (time.perf_counter() - begin) / len(pixels)] * len(pixels)
            advance(len(pixels))
    answers = np.concatenate(parts) if parts else np.empty((0, len(bundle.meta.labels)), np.float32)
    return tabulate(subset.table, bundle.meta.labels, answers, latency)


def check_geometry(bundle: Bundle, subset: Subset) -> None:
    """Refuse images that are stored in another geometry than the model takes (BundleError)."""
    if bundle.meta.geometry != subset.geometry:
        raise BundleError(f"{bundle.folder}: {geometry_clash(bundle, subset)}; scan with the model's geometry")


def geometry_clash(bundle: Bundle, subset: Subset) -> str:
    """One clause for a person: what the model takes, and how the split is stored."""
    takes, stored = bundle.meta.geometry, subset.geometry
    return f"takes {takes.size} px {takes.fit}, the split is stored at {stored.size} px {stored.fit}"


def tabulate(rows: pa.Table, labels: Sequence[str], answers: NDArray[np.float32], latency: Sequence[float]) -> pa.Table:
    """`PREDICTIONS` from the rows of a manifest (uri, sha256, label, group) and probabilities float32 [n, k]."""
    columns: dict[str, Any] = {
        **{name: rows[name] for name in ("uri", "sha256", "label", "group")},
        **answer_columns(labels, answers),
        "latency_ms": pa.array(latency, pa.float32()),
    }
    return pa.table(columns, schema=PREDICTIONS)


def answer_columns(labels: Sequence[str], answers: NDArray[np.float32]) -> dict[str, pa.Array]:
    """Columns `p` and `predicted` (the most probable label) of probabilities float32 [n, k]."""
    n, k = answers.shape
    names = np.asarray(labels, dtype=object)
    predicted = names[answers.argmax(axis=1)] if n else names[:0]
    return {
        "p": pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * k, pa.int32()), pa.array(answers.ravel())),
        "predicted": pa.array(predicted, pa.string()),
    }


def class_ids(table: pa.Table, labels: Sequence[str], column: str = "label") -> NDArray[np.int64]:
    """A column of labels as class ids, int64 [n]; -1 where it holds none of `labels`."""
    ids: Any = pc.index_in(table[column], value_set=pa.array(labels, pa.string()))
    found: NDArray[np.int64] = ids.fill_null(-1).to_numpy().astype(np.int64)
    return found


def probabilities(table: pa.Table, k: int) -> NDArray[np.float32]:
    """Column `p` as float32 [n, k]; a missing number is NaN.

    Raises:
        ValueError: a row is null or has other than k numbers.
    """
    column: Any = table["p"].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if column.null_count or not (lengths == k).all():
        raise ValueError(f"p must hold {k} numbers in every row")
    values: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, k).astype(np.float32, copy=False)
