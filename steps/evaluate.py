"""Run candidate and champion on the same test split."""

from typing import Annotated

from zenml import step
from zenml.config.cache_policy import CachePolicy

from assay.config import Challenges
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
def evaluate(
    candidate: Bundle, dataset: Dataset, name: str, challenges: Challenges, champion: str | None, crowned: str | None
) -> Annotated[Evidence, "evidence"]:
    """Show every test example to the exported bundles.

    `champion` is the version to compare with, if there is one, and `crowned` the digest of the bundle that it must be.
    """
    rival = champion_bundle(name, champion, crowned) if champion else None
    return gather(candidate, rival, dataset, name, subfolder("evidence") / name, challenges)
