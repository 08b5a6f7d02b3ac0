"""Check that the gate allows what is to be promoted."""

from typing import Annotated

from zenml import step

from assay import registry
from assay.console import say
from assay.gate.ledger import Ledger
from assay.release import promotion
from assay.release.promotion import Wish


@step(enable_cache=False)
def verify(version: str, wish: Wish) -> Annotated[str, "grant"]:
    """Find what in the ledger allows this bundle, against the present champion and not too old."""
    found = registry.find(version)
    grant = promotion.verify(Ledger.open(found.name), found, wish.max_age_days)
    say("verify", f"{found}: {grant.sentence}")
    return grant.sentence
