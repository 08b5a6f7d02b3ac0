import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.evaluation.calibration import Bin
from assay.evaluation.plots import Axis, curves, interval, reliability


def drawn(svg: str, tag: str) -> list[ElementTree.Element]:
    """The elements of a drawing, which must be well-formed."""
    return list(ElementTree.fromstring(svg).iter(tag))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in drawn(svg, "text")]


def test_an_axis_maps_its_ends_and_its_middle() -> None:
    axis = Axis(1, 3, 100, 0)
    assert [axis(1), axis(2), axis(3)] == [100, 50, 0]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(2, 8))
def test_ticks_are_few_and_lie_on_the_axis(low: float, width: float, count: int) -> None:
    axis = Axis(low, low + width, 0, 100)
    ticks = axis.ticks(count)
    assert len(ticks) <= count + 1
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)


@pytest.mark.parametrize(("bound", "lines"), [(0.95, 3), (None, 2)])
def test_an_interval_shows_its_bound(bound: float | None, lines: int) -> None:
    assert len(drawn(interval(0.96, 0.97, 0.98, bound, True), "line")) == lines


def test_an_interval_without_a_width_is_drawn() -> None:
    assert drawn(interval(1, 1, 1, 1, True), "circle")


def a_bin(confidence: float, accuracy: float) -> Bin:
    ends = {"accuracy_low": accuracy - 0.05, "accuracy_high": min(accuracy + 0.05, 1)}
    return Bin(low=confidence, high=confidence, count=10, confidence=confidence, accuracy=accuracy, **ends)


def test_each_bin_has_a_dot_and_the_axis_begins_below_all() -> None:
    svg = reliability([a_bin(0.75, 0.72), a_bin(0.95, 0.93)], [0.7, 0.95, 1.0])
    assert len(drawn(svg, "circle")) == 2
    assert texts(svg)[0] == "60%"
    assert next(title.text for title in drawn(svg, "title")) == "confidence 75.0%, right 72.0% of 10"


def test_every_confidence_is_in_the_histogram() -> None:
    svg = reliability([a_bin(0.75, 0.9)], [0.1, 0.7, 0.95, 1.0, 1.0])
    counts = [int((title.text or "").split()[0]) for title in drawn(svg, "title")[1:]]
    assert sum(counts) == 5


def test_no_bin_no_drawing() -> None:
    assert reliability([], []) == ""


HISTORY = [
    {"epoch": 1, "train_loss": 0.9, "val_loss": 0.8, "val_accuracy": 0.7},
    {"epoch": 2, "train_loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.8},
]


def test_series_are_named_and_drawn() -> None:
    svg = curves(HISTORY, "loss", best=2)
    assert len(drawn(svg, "polyline")) == 2
    assert {"train loss", "validation loss"} <= set(texts(svg))
    assert len(drawn(curves(HISTORY, "accuracy", best=None), "polyline")) == 1


@pytest.mark.parametrize("history", [[], [{"epoch": 1.0}], [{"train_loss": math.nan}]])
def test_nothing_to_draw_is_no_drawing(history: list[dict[str, float]]) -> None:
    assert curves(history, "loss", best=None) == ""


@pytest.mark.parametrize("history", [HISTORY[:1], [*HISTORY, {"train_loss": math.inf}], [{"train_loss": 0.5}] * 3])
def test_one_epoch_a_gap_and_a_flat_line_are_drawn(history: list[dict[str, float]]) -> None:
    assert drawn(curves(history, "loss", best=1), "circle")


def test_a_name_cannot_bring_markup() -> None:
    svg = curves([{"<script>loss": 0.5}], "loss", best=None)
    assert "<script>loss" in texts(svg)
