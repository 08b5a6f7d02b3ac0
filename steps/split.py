"""Put every picture, with all that looks the same, into one of the three splits."""

from typing import Annotated

import pyarrow.compute as pc
from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import SplitConfig
from assay.console import say
from assay.data.dataset import Dataset
from assay.data.manifest import SPLITS
from assay.data.splits import split as split_dataset
from assay.digests import of_json
from steps.caching import code_digest
from steps.materializers import DatasetMaterializer
from steps.outputs import latest, tag


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code), output_materializers=DatasetMaterializer)
def split(dataset: Dataset, config: SplitConfig, name: str) -> Annotated[Dataset, "dataset"]:
    """Assign groups to splits; a sample that an earlier run with this split config has placed stays where it was."""
    lineage = f"{name}-{of_json(config.model_dump())[:12]}"
    previous = latest("dataset", lineage)
    tag(lineage)
    result = split_dataset(dataset, config, previous=previous.manifest if previous else None)
    sizes = ", ".join(f"{len(result.subset(part)):,} {part}" for part in SPLITS)
    say("split", f"{sizes}  {pc.count_distinct(result.usable['group']).as_py():,} groups")
    return result
