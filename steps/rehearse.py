"""Let the real service rehearse."""

from typing import Annotated, Any

from zenml import step

from assay import registry
from assay.config import UseCase
from assay.models.bundle import Bundle
from assay.release import promotion
from assay.release.golden import Golden
from assay.release.promotion import Wish, stage
from serving.targets import open_target


@step(enable_cache=False)
def rehearse(
    candidate: Bundle, version: str, use_case: UseCase, wish: Wish, grant: str
) -> Annotated[dict[str, Any], "rehearsal"]:
    """Start one instance beside those that serve, and send it the test split; `grant` lets nothing else come first."""
    found = registry.find(version)
    target = open_target(wish.target, found.name, wish.environment)
    release = target.draft(found.version, candidate, Golden.of(candidate), wish.image)
    with stage("rehearse") as told:
        rehearsal = promotion.rehearse(target, release, candidate, use_case, wish.images)
        told(f"{rehearsal.agreeing:,} of {rehearsal.images:,} answers agree, p95 {rehearsal.p95_ms:.0f} ms")
    return rehearsal.as_json()
