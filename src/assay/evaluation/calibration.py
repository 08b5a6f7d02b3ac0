"""How far a model's confidence is from how often it is right."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from assay.evaluation.intervals import wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 15
RESAMPLES = 1000
BLOCK = 2_000_000
"""Numbers that a resampling holds at a time, whatever the number of images."""


class Bin(BaseModel):
    """The images of one range of confidence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability of the given label."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def calibration(chosen: Floats, right: Bools, confidence: float, seed: int) -> tuple[dict[str, Any], tuple[Bin, ...]]:
    """Expected calibration error of the given label, and the bins that it is drawn from.

    The error is that of Guo et al. 2017 (ICML), in 15 bins of equal count as Nixon et al. 2019 (CVPR workshops)
    advise: in bins of equal width, nearly all answers of a good classifier share one bin. Equal confidences share a
    bin, so the order of the images does not matter.

    Chance alone makes the error positive, and a percentile bootstrap, which adds that once more, never covers the
    truth of a calibrated model. So the ends differ. The lower one subtracts what chance may have added, which by the
    triangle inequality is too cautious rather than too bold: the larger of what a calibrated model with these
    confidences would show (consistency resampling, Bröcker & Smith 2007, Weather Forecast. 22:651-661) and of how far
    resamples stray from the sample. The upper one is the percentile, and no less than what the interval of the whole
    accuracy leaves room for, so that a split without a mistake has an upper end too.

    Args:
        chosen: probability of the given label, [n], n at least 1.
        right: whether that label is the true one, [n].
        confidence: level of the interval.
        seed: of the resampling.

    Returns:
        The fields of an `Estimate`, and the bins in order of confidence.
    """
    place = _bins(chosen)
    bins = _describe(chosen, right, place, confidence)
    gaps = _gaps((right - chosen)[np.newaxis], place, len(bins))
    chance, resampled = _resample(chosen, right, place, seed)
    value, far = float(_size(gaps)[0]), 0.5 + confidence / 2
    added = max(np.quantile(_size(chance), far), np.quantile(_size(resampled - gaps), far))
    ends = np.abs(np.array(wilson(right.sum(), len(right), confidence)) - chosen.mean())
    high = max(float(np.quantile(_size(resampled), far)), float(ends.max()), value)
    method = f"{BINS} equal-count bins, {RESAMPLES:,} resamples"
    estimate = {"value": value, "low": max(0.0, value - float(added)), "high": min(high, 1.0)}
    return {**estimate, "method": method, "n": len(chosen)}, bins


def _bins(chosen: Floats) -> NDArray[np.int64]:
    """The bin of each image, from 0 without gaps."""
    edges = np.quantile(chosen, np.arange(1, BINS) / BINS, method="lower")
    places: NDArray[np.int64] = np.unique(np.searchsorted(np.unique(edges), chosen), return_inverse=True)[1]
    return places


def _describe(chosen: Floats, right: Bools, place: NDArray[np.int64], confidence: float) -> tuple[Bin, ...]:
    counts, hits = np.bincount(place), np.bincount(place, weights=right)
    limits = wilson(hits, counts, confidence)
    lows, highs = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(lows, place, chosen)
    np.maximum.at(highs, place, chosen)
    columns = {
        "low": lows,
        "high": highs,
        "confidence": np.bincount(place, weights=chosen) / counts,
        "accuracy": hits / counts,
        "accuracy_low": limits.low,
        "accuracy_high": limits.high,
    }
    return tuple(
        Bin(count=int(counts[i]), **{name: float(column[i]) for name, column in columns.items()})
        for i in range(len(counts))
    )


def _resample(chosen: Floats, right: Bools, place: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """Gaps [RESAMPLES, bins] of a calibrated model with these confidences, and of resamples of these images."""
    generator = np.random.default_rng(seed)
    n, bins, misses = len(chosen), int(place.max()) + 1, right - chosen
    step = max(1, BLOCK // n)
    chance, resampled = [], []
    for start in range(0, RESAMPLES, step):
        shape = (min(step, RESAMPLES - start), n)
        chance.append(_gaps((generator.random(shape) < chosen) - chosen, place, bins))
        drawn = generator.integers(n, size=shape)
        resampled.append(_gaps(misses[drawn], place[drawn], bins))
    return np.concatenate(chance), np.concatenate(resampled)


def _gaps(misses: Floats, place: NDArray[np.int64], bins: int) -> Floats:
    """Of each row of `misses` (right less confidence, [r, n]) the sum in each bin over n: [r, bins].

    Args:
        place: bin of each number, [n] or [r, n].
    """
    rows, n = misses.shape
    cells = place + np.arange(rows)[:, np.newaxis] * bins
    sums = np.bincount(cells.ravel(), weights=misses.ravel(), minlength=rows * bins)
    gaps: Floats = sums.reshape(rows, bins) / n
    return gaps


def _size(gaps: Floats) -> Floats:
    """The calibration error of each row of gaps."""
    sizes: Floats = np.abs(gaps).sum(axis=1)
    return sizes
