"""Hold the manifest against what the use case expects of its data."""

from typing import Annotated

from zenml import log_metadata, step
from zenml.config.cache_policy import CachePolicy
from zenml.types import HTMLString

from assay.config import Expectations
from assay.console import say
from assay.data.dataset import Dataset
from assay.data.expectations import check, require
from steps.caching import code_digest
from steps.materializers import DatasetMaterializer
from steps.outputs import publish


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code), output_materializers={"checked": DatasetMaterializer})
def validate(
    dataset: Dataset, expectations: Expectations
) -> tuple[Annotated[Dataset, "checked"], Annotated[HTMLString, "data_report"]]:
    """Great Expectations over the manifest: an expectation that does not hold stops the run, or warns."""
    checked = check(dataset, expectations)
    page = publish("data.html", checked.html)
    log_metadata({outcome.name: outcome.sentence for outcome in checked.outcomes})
    say("validate", f"{sum(o.passed for o in checked.outcomes)} of {len(checked.outcomes)} expectations hold  {page}")
    require(checked)
    return dataset, HTMLString(checked.html)
