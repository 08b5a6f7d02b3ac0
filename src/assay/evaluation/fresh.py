"""A bundle on labelled images that it has not met: another site, a newer season, a second opinion."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assay.config import DataConfig
from assay.data.dataset import Dataset
from assay.data.manifest import labels
from assay.data.scan import scan_source
from assay.errors import DataError
from assay.evaluation.metrics import Metrics, measure
from assay.evaluation.predictions import predict
from assay.models.bundle import Bundle


def evaluate_source(bundle: Bundle, uri: str) -> Metrics:
    """Metrics of a bundle over every usable image of a source.

    Raises:
        DataError: the source cannot be read, or has labels that the bundle does not know.
    """
    test = all_as_test(bundle, uri).subset("test")
    return measure(predict(bundle, test), bundle.meta.labels)


def all_as_test(bundle: Bundle, uri: str) -> Dataset:
    """All usable images of a source as one test split, with the classes and in the geometry of a bundle.

    Images that the source gives no group are each a group of their own.

    Raises:
        DataError: the source cannot be read, or has labels that the bundle does not know.
    """
    geometry, known = bundle.meta.geometry, bundle.meta.labels
    dataset = scan_source(DataConfig(source=uri, image_size=geometry.size, fit=geometry.fit))
    if unknown := sorted(set(labels(dataset.usable)) - set(known)):
        raise DataError(f"{uri}: labels {unknown} are unknown to the model, which has {list(known)}")
    table = dataset.manifest
    usable = np.asarray(pc.equal(table["fault"], ""))
    columns = {
        "split": pa.array(np.where(usable, "test", ""), pa.string()),
        "group": pc.if_else(pa.array(usable), pc.coalesce(table["given_group"], table["sha256"]), ""),
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return replace(dataset, manifest=table, labels=known)
