import hashlib
import logging
import re
import socket
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.config import Bounds, Expectations
from assay.data import manifest
from assay.data.dataset import Dataset
from assay.data.expectations import ROWS_SHOWN, Checked, _quiet, check, require
from assay.errors import ExpectationsFailed
from assay.preprocess import Geometry

N = 20


def dataset(**columns: Any) -> Dataset:
    """Twenty good rows, ten a class, but for the columns given: whole ones, or {place: value}."""
    good: dict[str, list[Any]] = {
        "uri": [f"{i:04d}.png" for i in range(N)],
        "label": ["crack"] * 10 + ["intact"] * 10,
        "sha256": [hashlib.sha256(bytes([i])).hexdigest() for i in range(N)],
        "width": [100] * N,
        "height": [100] * N,
        "mode": ["RGB"] * N,
        "format": ["PNG"] * N,
        "brightness": [0.5] * N,
        "contrast": [0.2] * N,
        "fault": [""] * N,
    }
    for name, values in columns.items():
        if isinstance(values, dict):
            for place, value in values.items():
                good[name][place] = value
        else:
            good[name] = values
    table = manifest.build(good)
    return Dataset(table, Path("nowhere"), Geometry(64, "squash"), manifest.labels(table), "pictures/of/concrete")


def stop(whole: Dataset, **bounds: Any) -> Checked:
    return check(whole, Expectations(stop=Bounds(**bounds), warn=Bounds()))


FIRST_SHA = hashlib.sha256(bytes([0])).hexdigest()
ONE_CRACK_LESS = {"fault": {0: "truncated"}}

# bound, a value that holds, one that does not, the columns that are not good, and what is told of the failure
BOUNDS = [
    ("labels", ("crack", "intact"), ("crack", "whole"), {}, "'intact' not known and 'whole' missing"),
    ("labels", ("crack", "intact"), ("crack", "intact", "wet"), {}, "'wet' missing; asked for: 'crack', 'intact'"),
    ("min_classes", 2, 3, {}, "2 with usable images, at least 3 are asked for"),
    ("max_classes", 2, 1, {}, "2 with usable images, at most 1 are allowed"),
    ("min_per_class", 9, 10, ONE_CRACK_LESS, "class 'crack' has 9 usable images, at least 10 are asked for"),
    ("max_imbalance", 1.12, 1.1, ONE_CRACK_LESS, "class 'crack' 9: 1.11 times, at most 1.1 are allowed"),
    ("max_quarantined", 0.05, 0.04, ONE_CRACK_LESS, r"1 of 20 rows \(5%\) are quarantined, at most 4%"),
    ("max_label_conflicts", 1, 0, {"sha256": {15: FIRST_SHA}}, r"1 picture under several labels \('0000.png', '0015"),
    ("max_duplicates", 0.1, 0.05, {"sha256": {1: FIRST_SHA, 2: FIRST_SHA}}, r"2 of 20 usable images \(10%\) repeat"),
    ("min_size", 30, 31, {"height": {3: 30}}, r"lowest shorter side is 30 px \('0003.png'\), .* 1 image has less"),
    ("max_size", 400, 399, {"width": {3: 400, 4: 400}}, "highest longer side is 400 px .* 2 images have more"),
    ("max_aspect_ratio", 4, 3.9, {"width": {3: 400}}, "aspect ratio is 4 .* at most 3.9"),
    ("modes", ("RGB", "CMYK"), ("RGB", "L"), {"mode": {5: "CMYK"}}, r"a mode other than .* \('CMYK', as in '0005.png'"),
    ("formats", ("PNG", "BMP"), ("PNG",), {"format": {5: "BMP"}}, "1 of 20 usable images have a format other than"),
    ("brightness", (0.25, 0.5), (0.3, 0.9), {"brightness": {2: 0.25}}, "'0002.png' with 0.25"),
    ("brightness", (0.5, 0.75), (0.5, 0.7), {"brightness": {2: 0.75}}, "'0002.png' with 0.75"),
    ("min_contrast", 0.125, 0.13, {"contrast": {2: 0.125}}, "lowest contrast is 0.125 .'0002.png'"),
]


@pytest.mark.parametrize(
    ("name", "holding", "failing", "columns", "told"),
    BOUNDS,
    ids=[f"{name} {failing}" for name, _, failing, *_ in BOUNDS],
)
def test_a_bound_holds_up_to_its_value_and_is_told_beyond(
    name: str, holding: Any, failing: Any, columns: dict[str, Any], told: str
) -> None:
    assert not stop(dataset(**columns), **{name: holding}).failed
    (outcome,) = stop(dataset(**columns), **{name: failing}).failed
    assert (outcome.name, outcome.stops) == (name, True)
    assert re.match(f"{name}: .*{told}", outcome.sentence)
    assert "\n" not in outcome.sentence


def test_every_bound_of_the_configuration_is_tried_here() -> None:
    assert {name for name, *_ in BOUNDS} == set(Bounds.model_fields)


@pytest.mark.parametrize(
    ("column", "bounds"), [("brightness", {"brightness": (0, 1)}), ("contrast", {"min_contrast": 0})]
)
def test_what_is_no_number_does_not_hold(column: str, bounds: dict[str, Any]) -> None:
    (outcome,) = stop(dataset(**{column: {4: float("nan")}}), **bounds).failed
    assert "no number" in outcome.sentence


def test_conflicts_that_the_scan_has_quarantined_are_counted() -> None:
    conflict = dict.fromkeys((0, 15), "the same picture stands under 2 labels")
    assert stop(dataset(sha256={15: FIRST_SHA}, fault=conflict), max_label_conflicts=0).failed


def test_files_that_are_no_pictures_are_no_conflict() -> None:
    empty = {"sha256": {15: FIRST_SHA}, "fault": dict.fromkeys((0, 15), "empty"), "width": {0: 0, 15: 0}}
    assert not stop(dataset(**empty), max_label_conflicts=0).failed


def test_a_class_without_a_usable_image_is_the_smallest() -> None:
    lost = dataset(fault=dict.fromkeys(range(10), "truncated"))
    checked = stop(lost, min_per_class=1, max_imbalance=1000, min_classes=2)
    assert [outcome.name for outcome in checked.failed] == ["min_classes", "min_per_class", "max_imbalance"]


def test_nothing_holds_where_no_image_is_usable() -> None:
    lost = dataset(fault=["truncated"] * N)
    bounds = {name: holding for name, holding, *_ in BOUNDS if name not in ("labels", "max_duplicates", "max_classes")}
    checked = stop(lost, **{**bounds, "max_label_conflicts": None})
    assert {outcome.name for outcome in checked.failed} == {*bounds} - {"max_label_conflicts"}


def test_a_warning_does_not_stop() -> None:
    checked = check(dataset(), Expectations(stop=Bounds(min_per_class=5), warn=Bounds(min_per_class=50)))
    require(checked)
    assert [(o.name, o.stops, o.passed) for o in checked.outcomes] == [
        ("min_per_class", True, True),
        ("min_per_class", False, False),
    ]
    assert [outcome.sentence for outcome in checked.warnings] == [checked.outcomes[1].sentence]


def test_the_same_bound_may_stop_and_warn() -> None:
    checked = check(dataset(), Expectations(stop=Bounds(min_per_class=50), warn=Bounds(min_per_class=50)))
    assert (len(checked.failed), len(checked.warnings)) == (1, 1)


def test_all_that_fails_is_named_in_one_line() -> None:
    with pytest.raises(ExpectationsFailed) as failure:
        require(stop(dataset(**ONE_CRACK_LESS), min_per_class=10, max_quarantined=0.01, min_classes=2))
    assert str(failure.value) == (
        "2 expectations do not hold: min_per_class: class 'crack' has 9 usable images, at least 10 are asked for; "
        "max_quarantined: 1 of 20 rows (5%) are quarantined, at most 1% are allowed"
    )


def test_without_expectations_everything_passes() -> None:
    checked = stop(dataset())
    require(checked)
    assert checked.outcomes == ()
    assert "None are asked for" in checked.html


class Loads(HTMLParser):
    """What a page would load, and the scripts in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        loading = {"script", "iframe", "object", "embed", "link", "img", "video", "audio", "source", "base", "form"}
        self.found += [tag] * (tag in loading)
        self.found += [f"{tag} {name}={value}" for name, value in attributes if name in ("src", "href", "srcset")]
        self.found += [f"{tag} {name}" for name, _ in attributes if name.startswith("on")]


HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"


def test_the_page_loads_nothing_and_runs_nothing_whatever_files_and_classes_are_called() -> None:
    hostile = dataset(label=[HOSTILE] * 5 + ["<b>ünïcode"] * 15, uri={0: HOSTILE, 1: "new\nline"}, fault={1: HOSTILE})
    whole = Dataset(hostile.manifest, hostile.shards, hostile.geometry, hostile.labels, HOSTILE)
    page = stop(whole, labels=("<i>crack", "intact"), min_per_class=9, min_contrast=0.5, modes=(HOSTILE,)).html
    assert Loads(page).found == []
    assert "<b>" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;") in page


def test_the_page_tells_outcomes_classes_and_quarantine() -> None:
    many = 3 * ROWS_SHOWN
    whole = dataset(
        **{name: (dataset().manifest[name].to_pylist() * 8)[: many + 10] for name in ("mode", "format")},
        uri=[f"{i:04d}.png" for i in range(many + 10)],
        label=["crack"] * (many + 10),
        sha256=[str(i) for i in range(many + 10)],
        fault=["truncated"] * 2 + ["no image"] * (many - 2) + [""] * 10,
        **{name: np.full(many + 10, 100) for name in ("width", "height")},
        **{name: np.full(many + 10, 0.5) for name in ("brightness", "contrast")},
    )
    checked = stop(whole, max_quarantined=0.5)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", checked.html))
    assert "pictures/of/concrete" in text
    assert "1 of 1 expectations stops the run" in text
    assert "no image 148 truncated 2" in text
    assert f"The first {ROWS_SHOWN} of 150." in text
    assert (f"{ROWS_SHOWN - 1:04d}.png" in text, f"{ROWS_SHOWN:04d}.png" in text) == (True, False)
    assert "max_quarantined (stops the run): at most a share of 0.5 of the rows in quarantine" in text


def test_the_same_data_give_the_same_page() -> None:
    assert check(dataset(), Expectations()).html == check(dataset(), Expectations()).html


def test_checking_is_silent_and_speaks_to_nobody(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert check(dataset(), Expectations()).outcomes
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert list(tmp_path.iterdir()) == []


def test_what_the_library_logs_and_warns_of_is_kept_back_only_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("great_expectations.any.module")
    with _quiet():
        logger.error("noise")
        warnings.warn("noise", stacklevel=1)
    logger.error("later")
    assert [record.message for record in caplog.records] == ["later"]
