"""From a registered version to what an environment serves."""

from zenml import pipeline

from assay.config import UseCase
from assay.release.promotion import Wish
from steps.fetch import fetch
from steps.hooks import close_run
from steps.rehearse import rehearse
from steps.release import release
from steps.verify import verify


@pipeline(name="promotion", enable_cache=False, on_failure=close_run)
def promotion_pipeline(use_case: UseCase, wish: Wish, actor: str = "") -> None:
    """A version that the gate passed into an environment: verified there, or taken back.

    Args:
        use_case: the whole of `configs/<name>.yaml`: its test split is sent to the service.
        wish: which version, where to, and how.
        actor: who asks for it, for the ledger.
    """
    candidate, version = fetch(wish)
    grant = verify(version, wish)
    rehearsal = rehearse(candidate, version, use_case, wish, grant)
    release(candidate, version, wish, actor, rehearsal)
