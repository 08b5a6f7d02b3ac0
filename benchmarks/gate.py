"""How often a gate promotes what it should not, by simulation: ours beside what is common today.

Each row is a model that must not pass: one that is only as good as the champion where "better" is asked, one that is
worse by exactly the margin where "not worse" is asked, one that is exactly at a floor. A rule that holds its level
passes it on at most 2.5% of the test sets. `measured` compares the measured values (`new >= old`), `Wald` is the normal
interval, `bootstrap` the percentile interval over resampled images, and none of the three knows of groups. `exact` is
what ours would be on infinitely many test sets, where that can be computed.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from assay.gate.statistics.clusters import DIFFERENCE, PROPORTION, Design, design, of_recalls
from assay.gate.statistics.multiplicity import alpha_at
from assay.gate.statistics.paired import mcnemar, not_above
from assay.gate.statistics.power import Question, power_of_difference, power_of_floor, smallest_difference
from assay.gate.statistics.proportions import limits

from harness import arguments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Passed = Mapping[str, NDArray[np.bool_]]

CONFIDENCE = 0.95
ALPHA = 0.025
Z = -float(special.ndtri(ALPHA))
POWER, LOOKS = 0.8, 20
MARGIN, FLOOR, RECALL_FLOOR = 0.01, 0.95, 0.9
DISCORDANCE = 0.03
"""Share of the images that only one of the two models gets right."""
RECALLS = np.array([0.92, 0.98])
"""Of the classes, the rare one first: their mean is the floor."""
RARE_TRADE = (0.10, 0.02)
"""With 1:50, the candidate wins and loses so many images of the rare class, and pays in the common one."""
GROUP_SIZE, CORRELATION, DISPUTED = 4.0, 0.3, 0.5
"""Mean images in a group; correlation of their being right; share of a disputed group on which the models differ."""
RESAMPLES, BLOCK = 500, 500
COLUMNS = {"exact": 8, "ours": 11, "measured": 11, "Wald": 11, "bootstrap": 11}
"""Of the table, with their widths."""


class Row(NamedTuple):
    """One line: on how many test sets each rule lets the model pass."""

    asked: str
    n: int
    images: str
    passed: Passed
    exact: float | None = None
    """Of ours, where it can be computed."""


def comparison(b: Floats, c: Floats, n: int, least: float, divisor: Floats, rng: np.random.Generator) -> Passed:
    """Tables [pairs] against "better by more than `least`"."""
    difference = (b - c) / n
    error = np.sqrt(np.maximum((b + c) / n - difference**2, 0) / n)
    counts = b / divisor, c / divisor
    ours = mcnemar(*counts) if least == 0 else not_above(*counts, n / divisor, least)
    return {
        "ours": ours <= ALPHA,
        "measured": difference >= least,
        "Wald": difference - Z * error > least,
        "bootstrap": resampled_difference(b, c, n, rng) > least,
    }


def resampled_difference(b: Floats, c: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Lower percentile of the difference over resampled images, [pairs]."""
    lows = []
    for at in range(0, len(b), BLOCK):
        wins, losses = b[at : at + BLOCK].astype(int), c[at : at + BLOCK].astype(int)
        cells = np.column_stack([wins, losses, n - wins - losses]) / n
        drawn = rng.multinomial(n, cells, size=(RESAMPLES, len(cells)))
        lows.append(np.quantile((drawn[..., 0] - drawn[..., 1]) / n, ALPHA, axis=0))
    return np.concatenate(lows)


def floor(hits: Floats, n: Floats, bound: float, divisor: Floats, rng: np.random.Generator) -> Passed:
    """Counts [pairs, classes] against a floor on the mean of the classes' proportions; n [classes]."""
    size = len(n) * float(n.min()) / divisor
    shares = hits / n
    mean, variance = shares.mean(axis=1), np.sum(shares * (1 - shares) / n, axis=1) / len(n) ** 2
    resampled = [rng.binomial(n.astype(int), row, size=(RESAMPLES, len(n))) / n for row in shares]
    return {
        "ours": limits(mean * size, size, CONFIDENCE).low >= bound,
        "measured": mean >= bound,
        "Wald": mean - Z * np.sqrt(variance) >= bound,
        "bootstrap": np.array([np.quantile(draw.mean(axis=1), ALPHA) for draw in resampled]) >= bound,
    }


def classes(n: int, images: str) -> Ints:
    """Images of the rare and of the common class."""
    rare = max(n // 51, 1) if images == "1:50" else n // 2
    return np.array([rare, n - rare])


def single(n: int, images: str, pairs: int, rng: np.random.Generator) -> Iterator[Row]:
    """Images without groups."""
    ones, sizes = np.ones(pairs), classes(n, images)
    for asked, least in (("better: an equal model", 0.0), ("not worse by 1 point: at 1 point", -MARGIN)):
        b, c = tables(sizes, images, least, pairs, rng)
        exact = (
            power_of_difference(n, Question(least, least, DISCORDANCE, CONFIDENCE)) if images == "balanced" else None
        )
        yield Row(asked, n, images, comparison(b, c, n, least, ones, rng), exact)
    if images == "balanced":
        right = rng.binomial(n, FLOOR, pairs)[:, np.newaxis]
        exact = power_of_floor(n, FLOOR, FLOOR, CONFIDENCE)
        yield Row("accuracy >= 95%: at 95%", n, images, floor(right, np.array([n]), FLOOR, ones, rng), exact)
    hits = rng.binomial(sizes, RECALLS, size=(pairs, 2))
    yield Row("balanced accuracy >= 95%: at 95%", n, images, floor(hits, sizes, FLOOR, ones, rng))
    hits = rng.binomial(sizes[:1], RECALL_FLOOR, size=(pairs, 1))
    passed, exact = (
        floor(hits, sizes[:1], RECALL_FLOOR, ones, rng),
        power_of_floor(int(sizes[0]), RECALL_FLOOR, RECALL_FLOOR, CONFIDENCE),
    )
    yield Row("recall of rare >= 90%: at 90%", n, images, passed, exact)


def tables(sizes: Ints, images: str, true: float, pairs: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Images won and lost, [pairs], by a model that is better by `true` over all."""
    n = int(sizes.sum())
    trade = RARE_TRADE[0] - RARE_TRADE[1] if images == "1:50" else true
    common = (n * true - sizes[0] * trade) / sizes[1]
    rare = RARE_TRADE if images == "1:50" else ((DISCORDANCE + true) / 2, (DISCORDANCE - true) / 2)
    shares = (rare, ((DISCORDANCE + common) / 2, (DISCORDANCE - common) / 2))
    drawn = sum(
        rng.multinomial(size, [*share, 1 - sum(share)], size=pairs) for size, share in zip(sizes, shares, strict=True)
    )
    cells = np.asarray(drawn, float)
    return cells[:, 0], cells[:, 1]


def grouped(n: int, pairs: int, rng: np.random.Generator) -> Iterator[Row]:
    """Images in groups whose members tend to be right, and wrong, together; where classes matter, of one class each."""
    members = group_sizes(n, rng)
    groups, ones = np.repeat(np.arange(len(members)), members), np.ones(n)
    for asked, least in (("better: an equal model", 0.0), ("not worse by 1 point: at 1 point", -MARGIN)):
        signs = [disputes(groups, least, rng) for _ in range(pairs)]
        designs = [design(sign, ones, groups, DIFFERENCE, CONFIDENCE, 1) for sign in signs]
        b, c = (np.array([np.count_nonzero(sign == side) for sign in signs], float) for side in (1, -1))
        yield Row(asked, n, "groups", judged(comparison(b, c, n, least, divisors(designs), rng), designs))
    rights = [together(members, np.full(len(members), FLOOR), rng) for _ in range(pairs)]
    designs = [design(right, ones, groups, PROPORTION, CONFIDENCE, 1) for right in rights]
    hits = np.array([[right.sum()] for right in rights], float)
    passed = floor(hits, np.array([n]), FLOOR, divisors(designs), rng)
    yield Row("accuracy >= 95%: at 95%", n, "groups", judged(passed, designs))
    for images, every in (("balanced, groups", 2), ("1:50, groups", 51)):
        yield balanced_groups(n, images, members, np.arange(len(members)) % every == 0, pairs, rng)


def balanced_groups(
    n: int, images: str, members: Ints, rare: NDArray[np.bool_], pairs: int, rng: np.random.Generator
) -> Row:
    """The floor of balanced accuracy; `rare` says which groups are of the rare class."""
    groups = np.repeat(np.arange(len(members)), members)
    targets, recalls = np.where(rare, 0, 1)[groups], np.where(rare, *RECALLS)
    rights = [together(members, recalls, rng) for _ in range(pairs)]
    designs = [of_recalls(right, targets, groups, CONFIDENCE, 1) for right in rights]
    hits = np.array([np.bincount(targets, right) for right in rights])
    passed = floor(hits, np.bincount(targets), FLOOR, divisors(designs), rng)
    return Row("balanced accuracy >= 95%: at 95%", n, images, judged(passed, designs))


def group_sizes(n: int, rng: np.random.Generator) -> Ints:
    """Geometric sizes that add up to n."""
    sizes = rng.geometric(1 / GROUP_SIZE, n)
    count = int(np.searchsorted(sizes.cumsum(), n)) + 1
    sizes[count - 1] -= sizes[:count].sum() - n
    return sizes[:count]


def disputes(groups: Ints, true: float, rng: np.random.Generator) -> Ints:
    """Which model wins each image, 1, -1 or 0: the same one throughout a group, where they differ."""
    share = np.array([DISCORDANCE + true, DISCORDANCE - true]) / 2 / DISPUTED
    sides = rng.choice([1, -1, 0], p=[*share, 1 - share.sum()], size=groups[-1] + 1)
    return np.where(rng.random(len(groups)) < DISPUTED, sides[groups], 0)


def together(members: Ints, means: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether each image is right: beta-binomial groups."""
    odds = (1 - CORRELATION) / CORRELATION
    chances = rng.beta(means * odds, (1 - means) * odds)
    return rng.random(int(members.sum())) < np.repeat(chances, members)


def divisors(designs: list[Design]) -> Floats:
    """What the counts of each test set are divided by."""
    return np.array([found.divisor for found in designs])


def judged(passed: Passed, designs: list[Design]) -> Passed:
    """Ours passes nothing on too few groups."""
    return {**passed, "ours": passed["ours"] & np.array([found.enough for found in designs])}


def looks(n: int, pairs: int, rng: np.random.Generator) -> Row:
    """Twenty equal models against one champion on one test set, until one passes as better."""
    wrong = rng.binomial(n, 1 - FLOOR, size=(pairs, 1))
    b = rng.binomial(wrong, DISCORDANCE / 2 / (1 - FLOOR), size=(pairs, LOOKS))
    c = rng.binomial(n - wrong, DISCORDANCE / 2 / FLOOR, size=(pairs, LOOKS))
    p, spent = mcnemar(b, c), np.array([alpha_at(ALPHA, look) for look in range(1, LOOKS + 1)])
    passed = {"ours": p <= spent, "measured": b >= c, "ours, not spending": p <= ALPHA}
    return Row(f"better: {LOOKS} equal models in turn", n, "balanced", {k: v.any(axis=1) for k, v in passed.items()})


def powers(n: int, pairs: int, rng: np.random.Generator) -> Iterator[tuple[str, int, float, float]]:
    """What was asked, n, the power that was computed and the one that is found."""
    margin = smallest_difference(n, DISCORDANCE, CONFIDENCE, POWER)
    better = min(2.8 * np.sqrt(DISCORDANCE / n), 0.8 * DISCORDANCE)
    for least, true in ((-margin, 0.0), (0.0, better)):
        b, c = tables(classes(n, "balanced"), "balanced", true, pairs, rng)
        computed = power_of_difference(n, Question(least, true, DISCORDANCE, CONFIDENCE))
        name = f"not worse by {100 * margin:.2f} points: equal" if true == 0 else f"better: by {100 * true:.2f} points"
        yield name, n, computed, float(np.mean(not_above(b, c, n, least) <= ALPHA))
    found = limits(rng.binomial(n, 0.97, pairs), n, CONFIDENCE).low >= FLOOR
    yield "accuracy >= 95%: 97%", n, power_of_floor(n, FLOOR, 0.97, CONFIDENCE), float(found.mean())


def print_row(row: Row) -> None:
    """The shares that passed, in percent: of ours as computed, and of all as found, with the standard error of 2.5%."""
    rates = {name: f"{100 * float(passed.mean()):.2f}" for name, passed in row.passed.items()}
    rates["exact"] = f"{100 * row.exact:.2f}" if row.exact is not None else "-"
    listed = "".join(f"{rates.pop(name, '-'):>{width}}" for name, width in COLUMNS.items())
    extra = "".join(f"  {name}: {rate}" for name, rate in rates.items())
    print(f"{row.asked:<35}{row.n:>7,}  {row.images:<17}{listed}   ±{error(row):.2f}{extra}", flush=True)


def error(row: Row) -> float:
    """Standard error, in percent, of a share that is at the level."""
    return 100 * float(np.sqrt(ALPHA * (1 - ALPHA) / len(row.passed["ours"])))


def rows(sizes: list[int], pairs: int, grouped_pairs: int, rng: np.random.Generator) -> Iterator[Row]:
    """The table."""
    for n in sizes:
        for images in ("balanced", "1:50"):
            yield from single(n, images, pairs, rng)
        yield from grouped(n, grouped_pairs, rng)
        yield looks(n, pairs, rng)


def print_false_promotions(table: Iterator[Row]) -> bool:
    """Print the rows and whether ours held its level, within three standard errors, in all of them."""
    head = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())
    print(f"{'passed, in %; asked: true':<35}{'n':>7}  {'images':<17}{head}")
    above, count = [], 0
    for row in table:
        print_row(row)
        count += 1
        if 100 * row.passed["ours"].mean() > 100 * ALPHA + 3 * error(row) or (row.exact or 0) > ALPHA:
            above.append(f"  {row.asked}, {row.n:,} images, {row.images}")
    print(f"ours is above {100 * ALPHA}% in {len(above)} of {count} rows", *above, sep="\n")
    return not above


def main() -> None:
    """Print the tables; the exit code says whether ours held its level."""
    options = arguments(__doc__, pairs=4000, grouped_pairs=1000, sizes="179,500,2000,6000,40000", seed=7)
    sizes, rng = [int(size) for size in options.sizes.split(",")], np.random.default_rng(options.seed)
    print(f"{options.pairs:,} test sets in each row, {options.grouped_pairs:,} with groups; ±: one standard error")
    held = print_false_promotions(rows(sizes, options.pairs, options.grouped_pairs, rng))
    print(
        f"\n{'power, in %; asked: true':<42}{'n':>7}{'computed':>11}{'found':>9}   ±{50 / np.sqrt(options.pairs):.1f}"
    )
    for n in sizes:
        for name, images, computed, found in powers(n, options.pairs, rng):
            print(f"{name:<42}{images:>7,}{100 * computed:>11.1f}{100 * found:>9.1f}", flush=True)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
