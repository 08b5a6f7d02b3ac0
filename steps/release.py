"""Put a rehearsed version into its environment."""

from typing import Annotated, Any

from zenml import step

from assay import registry
from assay.gate.ledger import Ledger
from assay.models.bundle import Bundle
from assay.notify import News, notify
from assay.release import promotion
from assay.release.golden import Golden
from assay.release.promotion import Wish
from serving.targets import open_target
from steps.outputs import page_of_this_run


@step(enable_cache=False)
def release(
    candidate: Bundle, version: str, wish: Wish, actor: str, rehearsal: dict[str, Any]
) -> Annotated[dict[str, Any], "outcome"]:
    """Deploy, smoke and crown under one lock, or go back; three steps would leave gaps between which a kill falls."""
    assert rehearsal["passed"]
    found, golden = registry.find(version), Golden.of(candidate)
    target = open_target(wish.target, found.name, wish.environment)
    drafted = target.draft(found.version, candidate, golden, wish.image)
    ledger = Ledger.open(found.name, actor=actor)
    promotion.stays(ledger.chain().release(wish.environment), wish.target, open_target)
    outcome = promotion.put(target, drafted, golden, wish, found, ledger)
    notify(News("promotion", found.name, found.version, environment=wish.environment, link=page_of_this_run()))
    return outcome.as_json()
