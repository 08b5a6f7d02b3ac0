"""What every rule is given."""

from dataclasses import dataclass

import pyarrow as pa

from assay.evaluation.evidence import EvidenceMeta
from assay.gate.soundness import Answers


@dataclass(frozen=True)
class Case:
    """Sound evidence, and how sure a rule must be."""

    candidate: Answers
    champion: Answers | None
    """Of the same images in the same order; None if there is nothing to compare with."""
    rival: str
    """How the champion is called in a finding."""
    attributes: pa.Table | None
    """`slices.attributes` of the same images, in the same order."""
    challenges: pa.Table | None
    """What the candidate said about images that were changed, or are of something else."""
    uris: tuple[str, ...]
    """Of the images, in their order."""
    meta: EvidenceMeta
    confidence: float
    """Level of intervals at this look at the test set."""
    base_confidence: float
    """Level that the policy names: of tests that veto, which no look may weaken."""
