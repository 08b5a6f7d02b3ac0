"""Small SVG drawings for the report. They take their colours from the page's CSS variables, so dark mode is theirs too.

Text that comes from outside (names of series) is escaped here; the results may go into a page as they are.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import escape

from assay.evaluation.calibration import Bin

SERIES = ("var(--series-1)", "var(--series-2)", "var(--series-3)")


@dataclass(frozen=True)
class Axis:
    """Maps numbers from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a number, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[float]:
        """About `count` round numbers within the axis."""
        raw = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def interval(low: float, value: float, high: float, bound: float | None, passed: bool) -> str:
    """A dot with its interval, and the bound that its lower end should reach."""
    points = [low, high] if bound is None else [low, high, bound]
    pad = (max(points) - min(points)) * 0.08 or 0.01
    x = Axis(min(points) - pad, max(points) + pad, 2, 138)
    tone = "var(--good)" if passed else "var(--bad)"
    limit = "" if bound is None else f'<line class="bound" x1="{x(bound)}" x2="{x(bound)}" y1="1" y2="19"/>'
    return (
        f'<svg class="interval" viewBox="0 0 140 20" aria-hidden="true">'
        f'<line class="rail" x1="2" x2="138" y1="10" y2="10"/>{limit}'
        f'<line x1="{x(low)}" x2="{x(high)}" y1="10" y2="10" stroke="{tone}" stroke-width="3" stroke-linecap="round"/>'
        f'<circle cx="{x(value)}" cy="10" r="4.5" fill="{tone}"/></svg>'
    )


def reliability(bins: Sequence[Bin], confidences: Iterable[float]) -> str:
    """How often the model is right at each confidence, with intervals, over a histogram of its confidences."""
    if not bins:
        return ""
    low = math.floor(10 * min(min(b.confidence, b.accuracy_low) for b in bins)) / 10
    x, y = Axis(low, 1, 46, 390), Axis(low, 1, 270, 14)
    parts = [_grid(x, y, percent=True), _line([(low, low), (1, 1)], x, y, 'class="ideal"')]
    for b in bins:
        at = x(b.confidence)
        title = f"confidence {b.confidence:.1%}, right {b.accuracy:.1%} of {b.count:,}"
        parts.append(
            f'<g stroke="{SERIES[0]}" fill="{SERIES[0]}"><title>{title}</title>'
            f'<line x1="{at}" x2="{at}" y1="{y(b.accuracy_low)}" y2="{y(b.accuracy_high)}" stroke-width="1.5"/>'
            f'<circle cx="{at}" cy="{y(b.accuracy)}" r="4"/></g>'
        )
    parts.append(_histogram(confidences, x, top=318, bottom=372))
    parts.append('<text class="title" x="46" y="308">images by confidence (square-root scale)</text>')
    parts.append('<text class="title" x="390" y="392" text-anchor="end">confidence in the given label</text>')
    return _svg(410, 400, parts, "Reliability diagram: share of right answers by confidence")


def curves(history: Sequence[Mapping[str, float]], suffix: str, best: int | None) -> str:
    """Every series of `history` (one mapping an epoch) whose name ends with `suffix`, by epoch.

    Args:
        history: values that are missing or not finite leave a gap in their line.
        suffix: such as `loss`.
        best: the epoch whose weights were kept, counted from 1.
    """
    names = [name for name in dict.fromkeys(key for row in history for key in row) if name.endswith(suffix)]
    lines = {name: _points(history, name) for name in names[: len(SERIES)]}
    values = [value for points in lines.values() for _, value in points]
    if not values:
        return ""
    spread = (max(values) - min(values)) or 0.1
    x = Axis(1, max(len(history), 2), 46, 390)
    y = Axis(min(values) - 0.05 * spread, max(values) + 0.05 * spread, 200, 30)
    parts = [_grid(x, y, percent=suffix == "accuracy", whole=True)]
    if best is not None:
        parts.append(f'<line class="ideal" x1="{x(best)}" x2="{x(best)}" y1="30" y2="200"/>')
    for i, (name, points) in enumerate(lines.items()):
        parts.append(_line(points, x, y, f'fill="none" stroke="{SERIES[i]}" stroke-width="2"'))
        parts += [f'<circle cx="{x(e)}" cy="{y(v)}" r="2.5" fill="{SERIES[i]}"/>' for e, v in points]
        parts.append(f'<rect x="{46 + 125 * i}" y="8" width="12" height="4" rx="2" fill="{SERIES[i]}"/>')
        parts.append(f'<text x="{63 + 125 * i}" y="14">{escape(_name(name))}</text>')
    parts.append('<text class="title" x="390" y="232" text-anchor="end">epoch</text>')
    return _svg(410, 240, parts, f"{suffix} by epoch")


def _name(series: str) -> str:
    return series.replace("val_calibrated_", "calibrated_").replace("val_", "validation_").replace("_", " ")


def _points(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    pairs = ((epoch, row.get(name)) for epoch, row in enumerate(history, start=1))
    return [(epoch, value) for epoch, value in pairs if value is not None and math.isfinite(value)]


def _grid(x: Axis, y: Axis, percent: bool, whole: bool = False) -> str:
    """Horizontal lines with their values at the left, and values along the bottom; `whole`: at whole numbers only."""
    parts = []
    for value in y.ticks(5):
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{x.start - 6}" y="{y(value) + 4}" text-anchor="end">{_tick(value, y, percent)}</text>')
    for value in x.ticks(6):
        if not whole or value == int(value):
            label = _tick(value, x, percent and not whole)
            parts.append(f'<text x="{x(value)}" y="{y.start + 17}" text-anchor="middle">{label}</text>')
    return "".join(parts)


def _tick(value: float, axis: Axis, percent: bool) -> str:
    if percent:
        return f"{100 * value:.{1 if axis.high - axis.low < 0.04 else 0}f}%"
    return f"{value:.4g}"


def _line(points: Sequence[tuple[float, float]], x: Axis, y: Axis, style: str) -> str:
    return f'<polyline points="{" ".join(f"{x(a)},{y(b)}" for a, b in points)}" {style}/>'


def _histogram(values: Iterable[float], x: Axis, top: float, bottom: float) -> str:
    columns = 30
    width = (x.end - x.start) / columns
    counts = [0] * columns
    for value in values:
        place = int((value - x.low) / (x.high - x.low) * columns)
        counts[min(max(place, 0), columns - 1)] += 1
    # Square roots: next to the tall column at 100% the others would not show.
    height = Axis(0, math.sqrt(max(counts, default=0)) or 1, 0, bottom - top)
    bars = [
        f'<rect x="{x.start + i * width + 0.5:.1f}" y="{bottom - height(math.sqrt(c)):.1f}" width="{width - 1:.1f}" '
        f'height="{height(math.sqrt(c)):.1f}" fill="var(--bar)"><title>{c:,} images</title></rect>'
        for i, c in enumerate(counts)
        if c
    ]
    return "".join(bars) + f'<line class="rail" x1="{x.start}" x2="{x.end}" y1="{bottom}" y2="{bottom}"/>'


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    opening = f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f"{opening}{''.join(parts)}</svg>"
