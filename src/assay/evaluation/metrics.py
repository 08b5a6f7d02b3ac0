"""Metrics over samples, each with its confidence interval.

Everything here is linear in the number of images times classes. Where there is nothing to measure, the value is None
and a note says why; no NaN comes out.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from assay.evaluation.calibration import Bin, calibration
from assay.evaluation.intervals import auroc, mean_auroc, mean_of_proportions, wilson
from assay.evaluation.predictions import class_ids
from assay.evaluation.predictions import probabilities as probabilities_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_CONFUSION = 100
"""With more classes than this, `Metrics.confusion` is None: a matrix of 10,000 classes has 100 million cells."""
MOST_CONFUSED = 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(_Record):
    """A measured value with the two-sided interval that goes with it."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    """How the interval was made."""
    n: int
    """Images that the value rests on."""
    note: str = ""
    """Why there is no value, or what it leaves out."""


class ClassMetrics(_Record):
    """What one class looks like from both sides: of its images, and of the answers that name it."""

    label: str
    support: int
    """Test images of this class."""
    predicted: int
    """Test images that were given this label."""
    precision: Estimate
    recall: Estimate
    f1: Estimate


class Confused(_Record):
    """A mistake that was made `count` times."""

    label: str
    predicted: str
    count: int


class Metrics(_Record):
    """What a model's answers on one split amount to."""

    confidence: float
    """Level of every interval."""
    n: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    auroc: Estimate
    calibration_error: Estimate
    classes: tuple[ClassMetrics, ...]
    """In the order of the labels."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Images by true class (row) and predicted class (column); None with more than `MAX_CONFUSION` classes."""
    confused: tuple[Confused, ...]
    """The most frequent mistakes, at most `MOST_CONFUSED`."""
    reliability: tuple[Bin, ...]

    def headline(self) -> dict[str, Estimate]:
        """The metrics of the whole split, by name."""
        names = ("accuracy", "balanced_accuracy", "auroc", "calibration_error")
        return {name: getattr(self, name) for name in names}

    def scalars(self) -> dict[str, float]:
        """The headline metrics and their ends as plain numbers, for a tracker; what has no value is left out."""
        named = {
            f"{name}{suffix}": number
            for name, estimate in self.headline().items()
            for suffix, number in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high))
        }
        return {name: number for name, number in named.items() if number is not None}


def summarise(
    labels: Sequence[str],
    targets: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    confidence: float = 0.95,
    seed: int = 0,
) -> Metrics:
    """Measure a model's answers.

    Accuracy, precision and recall carry Wilson's interval; balanced accuracy (over the classes that occur) and the
    multiclass AUROC (macro, one against the rest) Wilson's for an effective sample size; AUROC Newcombe's; F1 the
    interval of TP / (TP + FP + FN), of which it is a monotone function; the calibration error a bootstrap.

    Args:
        labels: class names, k of them.
        targets: class ids, int [n].
        probabilities: [n, k]; a row that is not finite leaves nothing measured.
        confidence: level of every interval, two-sided.
        seed: of the bootstrap.

    Raises:
        ValueError: the shapes do not fit, or a target is no class id.
    """
    _check(labels, targets, probabilities)
    n, k = probabilities.shape
    if reason := _nothing_to_measure(probabilities):
        return _unmeasured(labels, targets, confidence, reason)
    predicted = probabilities.argmax(axis=1)
    right = predicted == targets
    support, named = np.bincount(targets, minlength=k), np.bincount(predicted, minlength=k)
    hits = np.bincount(targets[right], minlength=k)
    pairs, counts = _mistakes(targets[~right], predicted[~right], k)
    chosen = probabilities[np.arange(n), predicted].astype(float)
    error, bins = calibration(chosen, right, confidence, seed)
    return Metrics(
        confidence=confidence,
        n=n,
        accuracy=_proportion(int(hits.sum()), n, confidence),
        balanced_accuracy=_balanced(hits, support, confidence),
        auroc=_auroc(targets, probabilities, support, confidence),
        calibration_error=Estimate(**error),
        classes=_classes(labels, hits, support, named, confidence),
        confusion=_matrix(targets, predicted, k) if k <= MAX_CONFUSION else None,
        confused=tuple(
            Confused(label=labels[pair // k], predicted=labels[pair % k], count=int(count))
            for pair, count in zip(pairs, counts, strict=True)
        ),
        reliability=bins,
    )


def measure(table: pa.Table, labels: Sequence[str], confidence: float = 0.95) -> Metrics:
    """`summarise` of a table of predictions (`predictions.PREDICTIONS`).

    Raises:
        ValueError: a label is none of `labels`, or `p` does not hold one number for each.
    """
    return summarise(labels, class_ids(table, labels), probabilities_of(table, len(labels)), confidence)


def _check(labels: Sequence[str], targets: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
    if probabilities.shape != (len(targets), len(labels)) or not labels:
        shape = (len(targets), len(labels))
        raise ValueError(f"probabilities must be [n, k] = {shape}, given: {probabilities.shape}")
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(labels):
        raise ValueError(f"targets must be class ids from 0 to {len(labels) - 1}")


def _nothing_to_measure(probabilities: NDArray[np.floating]) -> str:
    if not len(probabilities):
        return "there are no images"
    bad = int(np.count_nonzero(~np.isfinite(probabilities).all(axis=1)))
    return f"{bad:,} of {len(probabilities):,} images have probabilities that are not finite" if bad else ""


def _unmeasured(labels: Sequence[str], targets: NDArray[np.integer], confidence: float, reason: str) -> Metrics:
    nothing = Estimate(value=None, low=None, high=None, method="none", n=0, note=reason)
    support = np.bincount(targets, minlength=len(labels))
    return Metrics(
        confidence=confidence,
        n=len(targets),
        accuracy=nothing,
        balanced_accuracy=nothing,
        auroc=nothing,
        calibration_error=nothing,
        classes=tuple(
            ClassMetrics(label=label, support=int(s), predicted=0, precision=nothing, recall=nothing, f1=nothing)
            for label, s in zip(labels, support, strict=True)
        ),
        confusion=None,
        confused=(),
        reliability=(),
    )


def _proportion(successes: int, n: int, confidence: float) -> Estimate:
    low, high = wilson(successes, n, confidence)
    return Estimate(value=successes / n, low=float(low), high=float(high), method="Wilson", n=n)


def _balanced(hits: Ints, support: Ints, confidence: float) -> Estimate:
    """Mean recall of the classes that occur."""
    present = support > 0
    low, high = mean_of_proportions(hits[present], support[present], confidence)
    return Estimate(
        value=float(np.mean(hits[present] / support[present])),
        low=low,
        high=high,
        method="Wilson, effective sample size",
        n=int(support.sum()),
        note=_left_out(int(np.count_nonzero(~present))),
    )


def _auroc(targets: NDArray[np.integer], p: NDArray[np.floating], support: Ints, confidence: float) -> Estimate:
    """Two classes: area for the second one. More: mean of the areas of each class against the rest."""
    n, k = p.shape
    chosen = np.flatnonzero((support > 0) & (support < n))
    if not len(chosen):
        return Estimate(value=None, low=None, high=None, method="none", n=n, note="it takes images of two classes")
    if k == 2:
        area = float(_placements(p[:, 1], targets == 1)[0].mean())
        ends = auroc(area, support[1], support[0], confidence)
        return Estimate(value=area, low=float(ends.low), high=float(ends.high), method="Newcombe 2006", n=n)
    areas, variance = _areas(targets, p, chosen)
    low, high = mean_auroc(areas, support[chosen], n - support[chosen], variance, confidence)
    return Estimate(
        value=float(areas.mean()),
        low=low,
        high=high,
        method="macro one-vs-rest; Wilson, effective sample size",
        n=n,
        note=_left_out(k - len(chosen)),
    )


def _areas(targets: NDArray[np.integer], p: NDArray[np.floating], chosen: Ints) -> tuple[Floats, float]:
    """Area of each of the chosen classes against the rest, and DeLong's variance of their mean.

    The variance is the mean square of what each image contributes, summed over the classes: DeLong, DeLong &
    Clarke-Pearson 1988 (Biometrics 44:837-845) for the contrast that is the mean.
    """
    n = len(targets)
    areas, contributions = np.empty(len(chosen)), np.zeros(n)
    for i, c in enumerate(chosen):
        positive = targets == c
        above, below = _placements(p[:, c], positive)
        areas[i] = above.mean()
        contributions[positive] += (above - areas[i]) / len(above)
        contributions[~positive] += (below - areas[i]) / len(below)
    return areas, float(np.sum(contributions**2)) / len(chosen) ** 2


def _placements(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, of each negative the share of positives above it.

    Ties count half. The mean of either is the area under the ROC curve.
    """
    ours, theirs = scores[positive], scores[~positive]
    return _share_below(ours, np.sort(theirs)), 1 - _share_below(theirs, np.sort(ours))


def _share_below(scores: NDArray[np.floating], others: NDArray[np.floating]) -> Floats:
    places = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    shares: Floats = places / (2 * len(others))
    return shares


def _classes(
    labels: Sequence[str], hits: Ints, support: Ints, named: Ints, confidence: float
) -> tuple[ClassMetrics, ...]:
    recalls = _column(hits, support, confidence, "no test image of this class")
    precisions = _column(hits, named, confidence, "no image was given this label")
    overlaps = _column(hits, support + named - hits, confidence, "neither a test image nor an answer of this class")
    f1s = [_f1(overlap) for overlap in overlaps]
    return tuple(
        ClassMetrics(label=label, support=int(s), predicted=int(q), precision=precision, recall=recall, f1=f1)
        for label, s, q, precision, recall, f1 in zip(labels, support, named, precisions, recalls, f1s, strict=True)
    )


def _column(successes: Ints, n: Ints, confidence: float, absent: str) -> list[Estimate]:
    """A proportion a class, or None with the reason `absent` where that is 0 / 0."""
    limits = wilson(successes, n, confidence)
    return [
        Estimate(value=float(a / b), low=float(low), high=float(high), method="Wilson", n=int(b))
        if b
        else Estimate(value=None, low=None, high=None, method="none", n=0, note=absent)
        for a, b, low, high in zip(successes, n, limits.low, limits.high, strict=True)
    ]


def _f1(overlap: Estimate) -> Estimate:
    """F1 = 2J / (1 + J), where J = TP / (TP + FP + FN) is a proportion of the images that a class is involved in."""
    if overlap.value is None or overlap.low is None or overlap.high is None:
        return overlap
    value, low, high = (2 * j / (1 + j) for j in (overlap.value, overlap.low, overlap.high))
    return Estimate(value=value, low=low, high=high, method="Wilson, transformed", n=overlap.n)


def _matrix(targets: NDArray[np.integer], predicted: Ints, k: int) -> tuple[tuple[int, ...], ...]:
    cells = np.bincount(targets * k + predicted, minlength=k * k).reshape(k, k)
    return tuple(tuple(row) for row in cells.tolist())


def _mistakes(targets: NDArray[np.integer], predicted: Ints, k: int) -> tuple[Ints, Ints]:
    """The most frequent cells `target * k + predicted`, and how often each occurs."""
    cells, counts = np.unique(targets.astype(np.int64) * k + predicted, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_CONFUSED]
    return cells[order], counts[order]


def _left_out(classes: int) -> str:
    if not classes:
        return ""
    return f"{classes:,} class{'es' if classes > 1 else ''} without a test image left out"
