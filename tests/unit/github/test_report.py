"""What the code of a pull request leaves is hostile: what the schema does not allow gets neither in nor out."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from workflows.hosted import GOOD, INJECTIONS, changed

from assay.errors import DataError
from assay.github.markdown import block, code
from assay.github.page import MARK, MAX_LENGTH
from assay.github.releasing import page_of
from assay.github.report import IMAGES, MAX_BYTES, NAME, Report, read_report

ENTITY = re.compile(r"&#\d+;")


def write(folder: Path, content: Any, name: str = NAME) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def test_a_good_report_is_shown(tmp_path: Path) -> None:
    write(tmp_path / "head", GOOD)
    before = {**GOOD["data"], "digest": "e" * 64, "counts": {"crack": {"train": 90}, "old": {"train": 1}}}
    base = changed(metrics=[{"name": "accuracy", "value": 0.95, "low": 0.9, "high": 0.97}], data=before)
    write(tmp_path / "base", base)
    write(tmp_path / "images", {"format": 1, "images": [{"name": "serving", "size": 412_000_000}]}, IMAGES)
    page = page_of(tmp_path, {"unit": 125.0})
    assert page.startswith(MARK)
    assert "### HOLD: <code>demo</code>" in page
    assert "| <code>accuracy</code> | 97.5% [95.0%, 99.0%] | 95.0% [90.0%, 97.0%] | +2.5 points |" in page
    assert "0 of 1 rules of the gate hold" in page
    assert "| <code>crack</code> | 100 (+10) |" in page
    assert "| <code>old</code> | gone |" in page
    assert "🟦 40 | ⬜ 2 |" in page
    assert "412 MB" in page
    assert "2 min 05 s" in page


def test_without_a_base_or_a_model_there_is_still_a_page(tmp_path: Path) -> None:
    assert "### No model" in page_of(tmp_path, {})
    write(tmp_path / "head", changed(confusion=None, labels=[], metrics=[
        {"name": "auroc", "value": None, "low": None, "high": None}]))  # fmt: skip
    assert "| <code>auroc</code> | – | – | – |" in page_of(tmp_path, {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 30_000,
        b"9" * 100_000,
        json.dumps(GOOD).encode() + b" " * MAX_BYTES,
        [GOOD],
        changed(extra=1),
        changed(format=2),
        changed(format=True),
        changed(use_case="../../etc/passwd"),
        changed(use_case="demo\n"),
        changed(commit="main"),
        changed(bundle_digest="B" * 64),
        changed(decision="promote"),
        changed(decision="PROMOTE\n"),
        changed(metrics=[{"name": "accuracy", "value": 1.5, "low": None, "high": None}]),
        changed(metrics=[{"name": "accuracy", "value": "0.9", "low": None, "high": None}]),
        changed(metrics=[{"name": "accuracy", "value": -0.0001, "low": None, "high": None}]),
        changed(metrics=GOOD["metrics"] * 21),
        changed(rules=GOOD["rules"] * 201),
        changed(rules=[{"rule": "a", "subject": "x" * 201, "passed": True}]),
        changed(rules=[{"rule": "a|b", "subject": "x", "passed": True}]),
        changed(rules=[{"rule": "a", "subject": "x", "passed": "yes"}]),
        changed(confusion=[[1, 2]]),
        changed(confusion=[[1, 2], [3]]),
        changed(confusion=[[1, -2], [3, 4]]),
        changed(confusion=[[1, 10**40], [3, 4]]),
        changed(data={**GOOD["data"], "counts": {"x": {"secret": 1}}}),
        changed(data={**GOOD["data"], "counts": {str(n): {} for n in range(51)}}),
    ],
)
def test_anything_else_is_refused_and_not_repeated(tmp_path: Path, content: Any) -> None:
    write(tmp_path / "head", content)
    with pytest.raises(DataError) as raised:
        read_report(tmp_path / "head")
    assert len(str(raised.value)) < 200
    page = page_of(tmp_path, {})
    assert "⚠️ <code>head&#58; report&#46;json" in page
    assert "### No model" in page


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, number: str) -> None:
    text = json.dumps(GOOD).replace("0.975", number)
    with pytest.raises(DataError):
        read_report(write(tmp_path, text.encode()))


@pytest.mark.parametrize("place", ["label", "subject", "count"])
@pytest.mark.parametrize("text", INJECTIONS)
def test_no_text_becomes_anything_but_code(tmp_path: Path, text: str, place: str) -> None:
    bad = {
        "label": changed(labels=[text, "intact"]),
        "subject": changed(rules=[{"rule": "a", "subject": text, "passed": False}]),
        "count": changed(data={**GOOD["data"], "counts": {text: {"train": 1}}}),
    }[place]
    write(tmp_path / "head", GOOD)
    clean = page_of(tmp_path, {})
    write(tmp_path / "head", bad)
    page = page_of(tmp_path, {})
    assert page.count("\n") == clean.count("\n")
    assert re.sub(r"<code>[^<>|@#`!\[\]():/.$:\n]*</code>", "", ENTITY.sub("", page)).count("code") == 0
    shown = re.sub(r"<code>.*?</code>", "", page)
    assert "evil" not in shown
    assert "injected" not in shown
    assert page.count("<!--") == 1


def test_a_link_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(json.dumps(GOOD))
    for name, make in {
        "link": lambda path: path.symlink_to(tmp_path / "secret"),
        "pipe": os.mkfifo,
        "folder": lambda path: path.mkdir(),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder / NAME)
        with pytest.raises(DataError, match="no plain file"):
            read_report(folder)


def test_a_page_has_an_end(tmp_path: Path) -> None:
    long = {f"{n:04d}" + "&" * 190: {"train": 1} for n in range(50)}
    labels = [f"{n}" + "<" * 100 for n in range(100)]
    write(tmp_path / "head", changed(
        rules=[{"rule": "a", "subject": "<" * 200, "passed": False}] * 200,
        labels=labels, confusion=[[1] * 100] * 100, data={**GOOD["data"], "counts": long}))  # fmt: skip
    page = page_of(tmp_path, {})
    assert MAX_LENGTH - 2000 < len(page) < 65_536
    assert page.endswith("(cut: too long)")


def test_code_and_block_keep_what_can_be_read() -> None:
    assert code("wall crack-2") == "<code>wall crack-2</code>"
    assert code("ä裂缝") == "<code>ä裂缝</code>"
    assert code("x" * 100, 10) == "<code>xxxxxxxxx&#8230;</code>"
    assert block("a\n<b>") == "<pre>a\n&#60;b&#62;</pre>"


def test_the_good_report_is_one() -> None:
    assert Report.model_validate_json(json.dumps(GOOD)).decision == "HOLD"
