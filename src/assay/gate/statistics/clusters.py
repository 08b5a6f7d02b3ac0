"""Images that hang together: several of one wall, of one day, of one burst. Their groups count rather than they."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from assay.gate.statistics.proportions import Floats, limits, one_sided

MIN_GROUPS = 20
"""Fewest groups, as an effective number, that a verdict may rest on. The limits err less than they may from 10 groups
on; below 20 they are so wide that they show nothing."""

RESAMPLES = 1000
"""Of the bootstrap: a standard error that is right to 1 / sqrt(2 * 1000) = 2.2%."""

PROPORTION = (0.0, 1.0)
DIFFERENCE = (-1.0, 1.0)


@dataclass(frozen=True)
class Design:
    """By how much the images of a test set are worth less than independent ones."""

    images: int
    groups: int
    effective_groups: float
    """Groups of one size that would be worth as much (Kish 1965, Survey Sampling): with one large group, hardly more
    than one."""
    effect: float
    """Variance of the mean, as a multiple of what it would be for independent images; 1 to `images`."""
    confidence: float
    """Two-sided, of the tests and limits that it is for."""

    @property
    def clustered(self) -> bool:
        """Whether any group has more than one image."""
        return self.groups < self.images

    @property
    def enough(self) -> bool:
        """Whether there are groups enough to judge by; images without groups always are."""
        return not self.clustered or self.effective_groups >= MIN_GROUPS

    @property
    def divisor(self) -> float:
        """What counts are divided by before they go into an exact test or limit.

        The design effect, and the square of Student's over the normal quantile, for a variance that was estimated from
        so many groups (Korn & Graubard 1998, Surv. Methodol. 24:193-201); 1 without groups.
        """
        if not self.clustered:
            return 1.0
        alpha, freedom = one_sided(self.confidence), max(self.effective_groups - 1, 1.0)
        return self.effect * float(special.stdtrit(freedom, alpha) / special.ndtri(alpha)) ** 2


def bootstrap(
    numerator: ArrayLike,
    denominator: ArrayLike,
    groups: ArrayLike,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Limits of a proportion, or of a ratio such as a recall, of images that come in groups.

    Clopper and Pearson's, for as many independent images as these are worth (see `design`). So they are never narrower
    than for independent images, have a width when everything was right, and work at any alpha, which percentiles of
    resamples do not.

    Args:
        numerator: [n], each between 0 and its denominator: whether the image was right and counts.
        denominator: [n], at least 0: whether the image counts.
        groups: of each image, [n]; any integers.
        confidence: two-sided.
        seed: of the resampling; the order of the images does not matter.
        resamples: of the groups.
    """
    successes, trials = float(np.sum(numerator)), float(np.sum(denominator))
    if trials <= 0:
        return 0.0, 1.0
    divisor = design(numerator, denominator, groups, PROPORTION, confidence, seed, resamples).divisor
    low, high = limits(successes / divisor, trials / divisor, confidence)
    return float(low), float(high)


def design(
    numerator: ArrayLike,
    denominator: ArrayLike,
    groups: ArrayLike,
    scale: tuple[float, float],
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
    centre: ArrayLike | None = None,
) -> Design:
    """Design effect of a ratio of sums over images that come in groups.

    The larger of two. One is the variance over resamples of whole groups (cluster bootstrap: Davison & Hinkley 1997,
    Bootstrap Methods, 3.8; Field & Welsh 2007, JRSS B 69:369-390). It is far too small where few groups made mistakes,
    or where the large ones happened to make none. The other assumes one correlation of any two images of a group
    (Kish 1965: 1 + correlation * (size - 1)), estimated with z^2 / 2 groups more at either end of the scale, as many
    as the successes and failures that Agresti & Coull 1998 (Am. Stat. 52:119-126) add to a proportion: few mistakes
    say little about how they hang together, the less the rarer the error that is allowed. So it is as cautious as if
    every group were one image where nothing contradicts that, and comes down to 1 where groups do not hang together.
    The larger is then corrected for the skewness that groups add (Johnson 1978, JASA 73:536-544): a few large groups
    that fail as a whole, and are missed by luck, take the variance with them. The sizes of the groups are taken as
    given.

    Args:
        numerator: [n]. For a proportion 0 or 1; for a difference of two models -1, 0 or 1.
        denominator: [n], at least 0 and more than 0 somewhere: weights, 1 for a mean, 0 for what does not count.
        groups: of each image, [n]; any integers.
        scale: lowest and highest of numerator / denominator: `PROPORTION` or `DIFFERENCE`.
        confidence: two-sided, of the tests and limits that it is for.
        seed: of the resampling; the order of the images does not matter.
        resamples: of the groups.
        centre: what the ratio of each image is expected to be, [n]; by default the ratio of the sums for all.
    """
    top, weight = np.asarray(numerator, float), np.asarray(denominator, float)
    counts = weight > 0
    top, weight = top[counts], weight[counts]
    ratio = float(top.sum() / weight.sum())
    expected = ratio if centre is None else np.asarray(centre, float)[counts]
    residual = top - expected * weight
    place = np.unique(np.asarray(groups)[counts], return_inverse=True)[1]
    sums, sizes = _rounded(np.bincount(place, residual)), _rounded(np.bincount(place, weight))
    effective = float(sizes.sum() ** 2 / np.sum(sizes**2))
    if len(sizes) == len(weight):
        return Design(len(weight), len(sizes), effective, 1.0, confidence)
    z = -float(special.ndtri(one_sided(confidence)))
    added = max(z**2 / 2, 2.0)
    ends = added * ((scale[0] - ratio) ** 2 + (scale[1] - ratio) ** 2)
    spread, correlated = _correlated(sums, sizes, residual, weight, added, ends)
    resampled = _resampled(sums, sizes, seed, resamples) * float(sizes.sum()) ** 2 / spread
    most = float(len(weight))
    effect = min(max(1.0, correlated, resampled), most)
    effect = min(effect * _skewed(sums, residual, effect, z), most)
    return Design(len(weight), len(sizes), effective, effect, confidence)


def of_recalls(
    right: NDArray[np.bool_], targets: NDArray[np.int64], groups: ArrayLike, confidence: float, seed: int
) -> Design:
    """Design effect of the plain mean of the classes' recalls: every class weighs the same.

    Args:
        right: whether each answer is right, [n].
        targets: class ids, [n], from 0.
        groups: of each image, [n]; any integers.
        confidence: two-sided, of the limits that it is for.
        seed: of the resampling.
    """
    support = np.maximum(np.bincount(targets), 1)
    recalls = np.bincount(targets, right) / support
    weight = (len(targets) / len(support) / support)[targets]
    return design(right * weight, weight, groups, PROPORTION, confidence, seed, centre=recalls[targets])


def _correlated(
    sums: Floats, sizes: Floats, residual: Floats, weight: Floats, added: float, ends: float
) -> tuple[float, float]:
    """Variance of the sum if images were independent, and the design effect of one correlation within groups.

    Args:
        sums, sizes: of the residuals and weights of each group.
        residual, weight: of each image.
        added: groups at either end of the scale.
        ends: sum of the squares of their residuals, for a weight of 1.
    """
    alone, within = float(np.sum(weight**2)), float(np.sum(residual**2))
    pairs = float(np.sum(sizes**2)) - alone
    size = float(np.sum(sizes**3) / np.sum(sizes**2))
    unit = alone / float(weight.sum())
    variance = (within + size * unit * ends) / (alone + 2 * added * size * unit)
    shared = float(np.sum(sums**2)) - within + max(size**2 - size * unit, 0) * ends
    correlation = min(max(shared / (pairs * variance), 0.0), 1.0)
    return alone * variance, 1 + correlation * pairs / alone


def _skewed(sums: Floats, residual: Floats, effect: float, z: float) -> float:
    """By how much the variance must be larger for what groups add to the skewness of the sum.

    A studentised mean of skewness g has the quantile z + g (2 z^2 + 1) / 6. What independent images have of it, with
    so many as remain, is in the exact limits already. Either sign counts: both ends have to hold.
    """
    added = max(_skewness(sums) - _skewness(residual) * np.sqrt(effect), 0.0)
    return float((1 + added * (2 * z**2 + 1) / (6 * z)) ** 2)


def _skewness(terms: Floats) -> float:
    """Absolute skewness of a sum of independent terms."""
    squares = float(np.sum(terms**2))
    return float(abs(np.sum(terms**3)) / squares**1.5) if squares > 0 else 0.0


def _resampled(sums: Floats, sizes: Floats, seed: int, resamples: int) -> float:
    """Variance of the ratio over resamples of the groups.

    Groups with the same sums are of one kind, and how often each kind is drawn is multinomial: the same resamples,
    without a list of groups for each.
    """
    if len(sums) < 2:
        return float("inf")
    kinds, counts = np.unique(sums + 1j * sizes, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), counts / len(sums), size=resamples)
    drawn_sums = drawn @ kinds
    return float(np.mean((drawn_sums.real / drawn_sums.imag) ** 2)) * len(sums) / (len(sums) - 1)


def _rounded(sums: ArrayLike) -> Floats:
    """Without the last bits, which depend on the order of the images."""
    return np.round(np.asarray(sums, float), 10)
