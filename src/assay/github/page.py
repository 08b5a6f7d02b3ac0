"""The comment on a pull request, which is the page of its run, too."""

from collections.abc import Mapping, Sequence

from assay.gate.telling import DECIDED
from assay.github.markdown import code, table
from assay.github.report import Images, Measured, Report

MARK = "<!-- assay:report -->"
"""By which the comment is found again."""
MAX_LENGTH = 60_000
"""Characters; GitHub takes 65,536."""
SHADES = "⬜🟦"


def page(
    head: Report | None,
    base: Report | None,
    images: Images | None,
    seconds: Mapping[str, float],
    faults: Sequence[str] = (),
) -> str:
    """Markdown of what a pull request does to the model, beginning with `MARK`.

    Args:
        head: of the pull request.
        base: of the branch that it goes to.
        images: sizes of the images that were built.
        seconds: job to how long it took, from GitHub itself.
        faults: why a report was not taken.
    """
    parts = [
        *([f"### {head.decision}: {code(head.use_case)}", "", DECIDED[head.decision]] if head else ["### No model"]),
        *(f"\n⚠️ {code(fault, 200)}" for fault in faults),
        *(_metrics(head, base) if head else []),
        *(_rules(head) if head else []),
        *(_confusion(head) if head else []),
        *(_data(head, base) if head else []),
        *table(["image", "size"], [[code(i.name), f"{i.size / 1e6:,.0f} MB"] for i in images.images] if images else []),
        *_timings(seconds),
        *(["", _footer(head, base)] if head else []),
    ]
    text = "\n".join([MARK, *parts])
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH].rpartition(chr(10))[0]}\n\n(cut: too long)"


def _metrics(head: Report, base: Report | None) -> list[str]:
    before = {metric.name: metric for metric in base.metrics} if base else {}
    rows = [
        [code(m.name.replace("_", " ")), _estimate(m), _estimate(before.get(m.name)), _change(m, before.get(m.name))]
        for m in head.metrics
    ]
    return table(["validation split", "this", "base", "change"], rows)


def _estimate(metric: Measured | None) -> str:
    if metric is None or metric.value is None:
        return "–"
    ends = f" [{metric.low:.1%}, {metric.high:.1%}]" if metric.low is not None and metric.high is not None else ""
    return f"{metric.value:.1%}{ends}"


def _change(now: Measured, before: Measured | None) -> str:
    if before is None or now.value is None or before.value is None:
        return "–"
    return f"{100 * (now.value - before.value):+.1f} points"


def _rules(head: Report) -> list[str]:
    failed = [rule for rule in head.rules if not rule.passed]
    told = f"{len(head.rules) - len(failed)} of {len(head.rules)} rules of the gate hold"
    return ["", f"{told}.", *table(["", "rule", "of"], [["✗", code(r.rule), code(r.subject)] for r in failed])]


def _confusion(head: Report) -> list[str]:
    if not head.confusion:
        return []
    rows = [[code(label, 30), *map(_cell, row, [sum(row)] * len(row))]
            for label, row in zip(head.labels, head.confusion, strict=True)]  # fmt: skip
    lines = table(["true ↓ given →", *(code(label, 30) for label in head.labels)], rows)
    return ["", "<details><summary>Confusion on the validation split</summary>", *lines, "", "</details>"]


def _cell(count: int, total: int) -> str:
    return f"{SHADES[2 * count > total]} {count:,}" if count else "0"


def _data(head: Report, base: Report | None) -> list[str]:
    if base and head.data == base.data:
        return ["", f"The data is that of the base ({code(head.data.digest[:12])})."]
    before = base.data.counts if base else {}
    rows = [
        [code(label), *(_count(splits.get(s), before.get(label, {}).get(s)) for s in ("train", "validation", "test"))]
        for label, splits in head.data.counts.items()
    ]
    gone = [[code(label), "gone", "gone", "gone"] for label in before if label not in head.data.counts]
    was = f", {base.data.quarantined:,} before" if base else ""
    told = (
        f"The data is {'another one' if base else code(head.data.digest[:12])}; {head.data.quarantined:,} quarantined"
    )
    return ["", f"{told}{was}.", *table(["images", "train", "validation", "test"], rows + gone)]


def _count(now: int | None, before: int | None) -> str:
    change = f" ({(now or 0) - before:+,})" if before is not None and before != now else ""
    return f"{now or 0:,}{change}"


def _timings(seconds: Mapping[str, float]) -> list[str]:
    rows = [[code(name), f"{taken // 60:.0f} min {taken % 60:02.0f} s"] for name, taken in seconds.items()]
    return ["", "<details><summary>Timings</summary>", *table(["job", "took"], rows), "", "</details>"] if rows else []


def _footer(head: Report, base: Report | None) -> str:
    against = f", against {code(base.commit[:12])}" if base else ""
    return f"Bundle {code(head.bundle_digest[:12])} of {code(head.commit[:12])}{against}; trained small, on a CPU."
