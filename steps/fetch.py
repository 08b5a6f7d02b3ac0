"""Fetch the version that is to be promoted."""

from typing import Annotated

from zenml import step

from assay.console import say
from assay.models.bundle import Bundle
from assay.release import promotion
from assay.release.promotion import Wish


@step(enable_cache=False)
def fetch(wish: Wish) -> tuple[Annotated[Bundle, "candidate"], Annotated[str, "version"]]:
    """Take a registered version by its number; its bundle must have the registered digest."""
    version, bundle = promotion.fetch(wish.model)
    say("fetch", f"{version}  bundle {bundle.digest[:12]}")
    return bundle, str(version)
