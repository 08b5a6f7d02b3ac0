"""What the candidate says about images that it was not tested on: altered test images, and images of something else.

Images are altered as they are stored, after decoding and resizing. Of the test split those with the smallest digests
are taken: the same ones for every model, and other ones for nobody to choose.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.config import Challenges
from assay.console import Advance, progress
from assay.data.dataset import Subset
from assay.evaluation import corruptions, unfamiliar
from assay.evaluation.behaviour import BEHAVIOUR
from assay.evaluation.predictions import answer_columns, check_geometry
from assay.models.bundle import Bundle
from assay.models.predictor import MAX_BATCH, Predictor

CORRUPTION, BEHAVIOURAL, UNFAMILIAR = "corruption", "behaviour", "unfamiliar"

CHALLENGES = pa.schema(
    [
        ("kind", pa.string()),  # corruption, behaviour or unfamiliar
        ("name", pa.string()),  # of `CORRUPTIONS`, `BEHAVIOUR` or `unfamiliar.KINDS`
        ("severity", pa.int8()),  # of a corruption 1 to 5, else 0
        ("uri", pa.string()),  # of the test image; of an unfamiliar one a name of its own
        ("label", pa.string()),  # null where the image is unfamiliar
        ("p", pa.list_(pa.float32())),  # in the order of the bundle's labels
        ("predicted", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Alteration:
    """One thing that is done to every image: `apply` takes pixels uint8 [n, s, s, 3] and n digests."""

    kind: str
    name: str
    severity: int
    apply: Callable[[NDArray[np.uint8], list[str]], NDArray[np.uint8]]


def challenge(bundle: Bundle, subset: Subset, config: Challenges) -> pa.Table:
    """Give a model the images of every challenge.

    Args:
        bundle: the model.
        subset: the test split.
        config: which challenges, and how many images.

    Returns:
        `CHALLENGES`; in the order of the configuration, images by digest. Nothing is asked of an empty split.

    Raises:
        ConfigError: a corruption is unknown.
        BundleError: the images have another geometry than the model, or it cannot be run.
        DataError: the images cannot be read.
    """
    corruptions.check(config.corruptions)
    check_geometry(bundle, subset)
    chosen, alterations = _chosen(subset, config.images), list(_alterations(config))
    strange = config.unfamiliar if len(chosen) else 0
    total = len(alterations) * len(chosen) + strange
    if not total:
        return CHALLENGES.empty_table()
    predictor = Predictor(bundle)
    with progress("challenge", total, "images") as advance:
        parts = [
            part for alteration in alterations for part in _altered(predictor, subset, chosen, alteration, advance)
        ]
        parts += _strange(predictor, subset, chosen, strange, advance)
    return pa.concat_tables(parts).combine_chunks()


def _chosen(subset: Subset, images: int) -> NDArray[np.int64]:
    """Rows of the images with the smallest digests, in that order; of the same file twice, by uri."""
    order = pc.sort_indices(subset.table, sort_keys=[("sha256", "ascending"), ("uri", "ascending")])
    rows: NDArray[np.int64] = order.to_numpy()[:images].astype(np.int64)
    return rows


def _alterations(config: Challenges) -> Iterator[_Alteration]:
    for name in dict.fromkeys(config.corruptions):
        for severity in sorted(set(config.severities)):
            yield _Alteration(CORRUPTION, name, severity, _corruption(name, severity))
    for name, change in BEHAVIOUR.items() if config.behaviour else ():
        yield _Alteration(BEHAVIOURAL, name, 0, _change(change))


def _corruption(name: str, severity: int) -> Callable[[NDArray[np.uint8], list[str]], NDArray[np.uint8]]:
    return lambda pixels, digests: corruptions.corrupt(pixels, digests, name, severity)


def _change(
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> Callable[[NDArray[np.uint8], list[str]], NDArray[np.uint8]]:
    return lambda pixels, _: change(pixels)


def _altered(
    predictor: Predictor, subset: Subset, chosen: NDArray[np.int64], alteration: _Alteration, advance: Advance
) -> Iterator[pa.Table]:
    for rows in _batches(chosen):
        told = subset.table.select(["uri", "sha256", "label"]).take(rows)
        pixels = alteration.apply(subset.read(rows), told["sha256"].to_pylist())
        answers = predictor.probabilities(np.ascontiguousarray(pixels))
        names = [alteration.name] * len(rows)
        yield _table(predictor, alteration.kind, names, alteration.severity, told["uri"], told["label"], answers)
        advance(len(rows), f"{alteration.name} {alteration.severity or ''}".rstrip())


def _strange(
    predictor: Predictor, subset: Subset, chosen: NDArray[np.int64], count: int, advance: Advance
) -> Iterator[pa.Table]:
    for indices in _batches(np.arange(count)):
        material = subset.read(chosen[indices // len(unfamiliar.KINDS) % len(chosen)])
        pixels = np.stack([unfamiliar.draw(int(i), image) for i, image in zip(indices, material, strict=True)])
        names = [unfamiliar.kind_of(int(index)) for index in indices]
        uris = [f"{UNFAMILIAR}/{name}/{index:06d}" for name, index in zip(names, indices, strict=True)]
        answers = predictor.probabilities(pixels)
        yield _table(predictor, UNFAMILIAR, names, 0, uris, pa.nulls(len(uris), pa.string()), answers)
        advance(len(indices), UNFAMILIAR)


def _batches(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + MAX_BATCH] for start in range(0, len(rows), MAX_BATCH)]


def _table(
    predictor: Predictor, kind: str, names: list[str], severity: int, uris: Any, labels: Any, answers: Any
) -> pa.Table:
    columns = {
        "kind": [kind] * len(names),
        "name": names,
        "severity": [severity] * len(names),
        "uri": uris,
        "label": labels,
        **answer_columns(predictor.bundle.meta.labels, answers),
    }
    return pa.table(columns, schema=CHALLENGES)
