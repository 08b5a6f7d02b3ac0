"""Whether there is something to train on."""

import math
from dataclasses import dataclass

from assay import crown, registry
from assay.config import UseCase
from assay.data.scan import scan_source
from assay.errors import AssayError


@dataclass(frozen=True)
class Due:
    """An answer, and why."""

    train: bool
    why: str


def due(use_case: UseCase, drift: float | None, bound: float) -> Due:
    """Whether a use case should be trained now: its service's inputs drifted, or its data is not what was trained on.

    Data that the newest version was trained on is not new, even if the gate did not let that version in: the same data
    would give the same verdict, at the price of a look at the test set.

    Args:
        use_case: its data is read, in one pass.
        drift: as measured by whoever asks; None if nothing was.
        bound: above it, drift is a reason.

    Raises:
        AssayError: the data cannot be read, or ledger or registry do not answer.
    """
    if drift is not None and drift > bound:
        return Due(True, f"the drift {drift:g} is above its bound {bound:g}")
    now = scan_source(use_case.data).digest
    for version in _known(use_case.name):
        trained_on = registry.fetch(version).meta.lineage.data_digest
        if trained_on == now:
            verdict = f", which the gate said {version.verdict} to" if version.verdict else ""
            low = f"; the drift {drift:g} is within its bound {bound:g}" if drift is not None else ""
            return Due(False, f"nothing is new: {version} was trained on this data ({now[:12]}){verdict}{low}")
    return Due(True, f"no version of {use_case.name} was trained on this data ({now[:12]}) lately")


def number(text: str) -> float | None:
    """A measured drift, from whoever sent it; None of nothing.

    Raises:
        AssayError: it is no finite number from 0.
    """
    try:
        value = float(text) if text.strip() else None
    except ValueError:
        value = math.nan
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise AssayError(f"drift {text[:40]!r}: give a number from 0, such as 0.25")
    return value


def _known(name: str) -> list[registry.Version]:
    """The champion and the newest version."""
    versions = registry.versions(name)
    champion, _ = crown.champion_of(name)
    return [version for version in versions if version.version == champion or version == versions[0]]
