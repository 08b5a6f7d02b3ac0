"""Recall of the dangerous class where false alarms are rationed, with a guarantee on both."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from assay.gate.statistics.proportions import Floats, limits, one_sided


@dataclass(frozen=True)
class RecallAtRate:
    """What is flagged is what scores above the threshold. Rates as shares of 1."""

    threshold: float
    """Infinite where there are too few negatives to allow any other."""
    negatives: int
    negatives_needed: int
    """With fewer, no threshold is shown to keep the false-positive rate."""
    false_positives: int
    false_positive_rate: float
    """Upper limit, at half of alpha; where the threshold is finite, it is what is allowed or less."""
    positives: int
    hits: int
    recall: tuple[float, float]
    """Limits, each end at half of alpha; [0, 1] without positives."""

    @property
    def enough(self) -> bool:
        """Whether there are negatives enough, and a positive."""
        return self.negatives >= self.negatives_needed and self.positives > 0

    @property
    def measured(self) -> float | None:
        """Share of the positives that are flagged; None without any."""
        return self.hits / self.positives if self.positives else None


def recall_at_rate(
    positives: NDArray[np.floating],
    negatives: NDArray[np.floating],
    allowed: float,
    confidence: float,
    divisors: tuple[float, float] = (1.0, 1.0),
) -> RecallAtRate:
    """Recall at a threshold whose false-positive rate is at most `allowed`, both shown on these images.

    The threshold is a score of a negative: the lowest for which the exact upper limit of the false-positive rate is
    still allowed, at half of alpha. That it was chosen on the same negatives costs nothing, since the rate above the
    j-th highest of n scores is at most a beta variable with the parameters (j, n - j + 1), whatever the scores'
    distribution (tolerance limit: Wilks 1941, Ann. Math. Statist. 12:91-96), which is Clopper and Pearson's limit for
    j - 1 false positives. The positives know nothing of it, so their recall has exact limits, at the other half of
    alpha: "recall at least the lower limit, at no more than the allowed rate" is wrong at most alpha of the time
    (Bonferroni). Equal scores fall on the same side, and only lower both rates.

    Args:
        positives: scores of the images of the class, [p], finite.
        negatives: scores of the other images, [n], finite.
        allowed: false-positive rate, above 0 and below 1.
        confidence: two-sided.
        divisors: of the counts of positives and negatives, where images come in groups (`clusters.Design.divisor`).
    """
    alpha = one_sided(confidence) / 2
    needed = math.ceil(negatives_needed(allowed, confidence) * divisors[1])
    threshold = _threshold(np.asarray(negatives, float), allowed, alpha, divisors[1])
    hits = int(np.count_nonzero(np.asarray(positives, float) > threshold))
    false = int(np.count_nonzero(np.asarray(negatives, float) > threshold))
    halved = 1 - 2 * alpha
    low, high = limits(hits / divisors[0], len(positives) / divisors[0], halved)
    rate = float(limits(false / divisors[1], len(negatives) / divisors[1], halved).high)
    return RecallAtRate(
        threshold=threshold,
        negatives=len(negatives),
        negatives_needed=needed,
        false_positives=false,
        false_positive_rate=rate,
        positives=len(positives),
        hits=hits,
        recall=(float(low), float(high)),
    )


def negatives_needed(allowed: float, confidence: float) -> int:
    """Fewest negatives, none of them flagged, that show a false-positive rate of at most `allowed` at half of alpha."""
    return math.ceil(math.log(one_sided(confidence) / 2) / math.log1p(-allowed) - 1e-12)


def _threshold(negatives: Floats, allowed: float, alpha: float, divisor: float) -> float:
    """The score of the negative that must just not be flagged; infinite where none will do."""
    n = len(negatives)
    flagged = np.arange(n) / divisor
    tolerable = special.betaincc(flagged + 1, n / divisor - flagged, allowed) <= alpha
    count = int(np.count_nonzero(tolerable))
    return float(np.sort(negatives)[n - count]) if count else float("inf")
