"""Scan the source: one pass over the raw files, into a manifest and shards."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import DataConfig
from assay.data.dataset import Dataset
from assay.data.scan import scan_source
from steps.caching import code_digest
from steps.materializers import DatasetMaterializer


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code), output_materializers=DatasetMaterializer)
def ingest(data: DataConfig, listing: str) -> Annotated[Dataset, "scanned"]:
    """Decode, hash and measure every image; what cannot be used keeps its row, with the reason.

    `listing` is the digest of the source's listing: the step cache sees by it that files came, went or changed.
    """
    return scan_source(data)
