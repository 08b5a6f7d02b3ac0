"""A promoter in a process of its own, for tests/integration/test_promotion_cluster.py: it may be killed at a stage.

    promoter.py MODEL@VERSION IMAGE SOAK_S [STAGE]

With a STAGE it kills itself as that begins: `deploy`, `applied`, `smoke`, `crown`, `record` or `alias`.
"""

import os
import signal
import sys
from typing import Any

from assay.errors import AssayError
from assay.gate.ledger import Ledger
from assay.release import promotion
from assay.release.golden import Golden
from assay.release.promotion import Wish
from serving.cluster import lease
from serving.cluster.watching import Watch
from serving.rollout import Cluster
from serving.targets import open_target

STAGES: dict[str, tuple[Any, str]] = {
    "deploy": (Cluster, "deploy"),
    "applied": (Watch, "until_there"),
    "smoke": (promotion, "smoke"),
    "crown": (Ledger, "promote"),
    "record": (Ledger, "release"),
    "alias": (promotion, "follow"),
}


# So that the next one need not wait so long; that it does is shown with the real times in test_rollout.py.
lease.DURATION_S, lease.RENEW_S, lease.MARGIN_S = 6, 1.0, 2.0


def die(*_: Any, **__: Any) -> None:
    """As by the kernel, without any chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(reference: str, image: str, soak_s: str, stage: str | None = None) -> None:
    """Promote to production, and say what happened."""
    if stage:
        setattr(*STAGES[stage], die)
    version, bundle = promotion.fetch(reference)
    wish = Wish(model=reference, environment="production", target="kubernetes", image=image, soak_s=float(soak_s))
    target, golden = open_target("kubernetes", version.name, "production"), Golden.of(bundle)
    release = target.draft(version.version, bundle, golden, image)
    try:
        outcome = promotion.put(target, release, golden, wish, version, Ledger.open(version.name))
    except AssayError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    print(f"promoted by entry {outcome.entry}")


if __name__ == "__main__":
    main(*sys.argv[1:])
