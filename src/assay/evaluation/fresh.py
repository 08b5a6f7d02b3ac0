"""A bundle on labelled images that it has not met: another site, a newer season, a second opinion."""

from dataclasses import replace

import numpy as np

from assay.config import DataConfig
from assay.console import progress
from assay.data.dataset import Dataset, Subset
from assay.data.scan import scan
from assay.data.sources import open_source
from assay.errors import DataError
from assay.evaluation.metrics import Metrics, summarise
from assay.home import subfolder
from assay.models.bundle import Bundle
from assay.models.predictor import MAX_BATCH, Predictor


def evaluate_source(bundle: Bundle, uri: str) -> Metrics:
    """Metrics of a bundle over every usable image of a source.

    Raises:
        DataError: the source cannot be read, or has labels that the bundle does not know.
    """
    meta = bundle.meta
    config = DataConfig(source=uri, image_size=meta.geometry.size, fit=meta.geometry.fit)
    source = open_source(uri)
    try:
        dataset = scan(source, config, store=subfolder("shards"))
    finally:
        source.close()
    if unknown := sorted(set(dataset.labels) - set(meta.labels)):
        raise DataError(f"{uri}: labels {unknown} are unknown to the model, which has {list(meta.labels)}")
    subset = _all_of(replace(dataset, labels=meta.labels))
    return summarise(meta.labels, subset.targets, _probabilities(bundle, subset))


def _all_of(dataset: Dataset) -> Subset:
    return Subset(dataset.usable, dataset)


def _probabilities(bundle: Bundle, subset: Subset) -> np.ndarray:
    """float32 [n, classes], in the order of the subset."""
    predictor = Predictor(bundle)
    parts = []
    with progress("evaluate", len(subset), "images") as advance:
        for start in range(0, len(subset), MAX_BATCH):
            pixels = subset.read(np.arange(start, min(start + MAX_BATCH, len(subset))))
            parts.append(predictor.probabilities(pixels))
            advance(len(pixels))
    return np.concatenate(parts)
