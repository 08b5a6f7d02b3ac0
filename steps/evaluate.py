"""Run candidate and champion on the same test split."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.data.dataset import Dataset
from assay.evaluation.evidence import Evidence, gather
from assay.home import subfolder
from assay.models.bundle import Bundle
from assay.registry import champion_bundle
from steps.caching import code_digest
from steps.materializers import EvidenceMaterializer


def code() -> str:
    """Digest of the library code behind this step."""
    return code_digest(__file__)


@step(cache_policy=CachePolicy(cache_func=code), output_materializers=EvidenceMaterializer)
def evaluate(candidate: Bundle, dataset: Dataset, name: str, against: str | None) -> Annotated[Evidence, "evidence"]:
    """Predict every test example with the exported bundles; `against` is the champion's version, if there is one."""
    champion = champion_bundle(name, against) if against else None
    return gather(candidate, champion, dataset, name, subfolder("evidence") / name)
