"""`assay data check`, as a person runs it, on every fault that a folder of images can have."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pictures import encoded, picture


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`assay ARGUMENTS` in a process of its own; ASSAY_HOME is the test's."""
    command = [sys.executable, "-m", "assay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_fault_is_quarantined_with_its_reason_and_nothing_is_touched(
    hostile_folder: Path, hostile_faults: Mapping[str, str]
) -> None:
    before = content_of(hostile_folder)
    done = run("data", "check", str(hostile_folder), "--image-size", "32", "--json")
    checkup = json.loads(done.stdout)
    reasons = {row["uri"]: row["reason"] for row in checkup["quarantined"]}
    assert {uri for uri in reasons if not reasons[uri].startswith("the same picture")} == set(hostile_faults)
    assert all(reasons[uri].startswith(reason) for uri, reason in hostile_faults.items())
    assert {uri for uri in reasons if "2 labels: crack, intact" in reasons[uri]} == {
        "crack/same.jpg",
        "intact/same.jpg",
    }
    assert done.returncode == 3, "so many faults stop a run"
    assert "Traceback" not in done.stderr
    assert content_of(hostile_folder) == before
    assert Path(checkup["report"]).read_text(encoding="utf-8").count("good_00.jpg") == 0


def test_a_clean_folder_is_accepted(image_folder: Callable[..., Path]) -> None:
    done = run("data", "check", str(image_folder({"crack": 30, "intact": 30})), "--image-size", "32")
    assert done.returncode == 0, done.stdout
    assert "training would accept this" in done.stdout


def empty(root: Path) -> str:
    root.mkdir()
    return str(root)


def missing(root: Path) -> str:
    return str(root / "nowhere")


def one_class(root: Path) -> str:
    write(root, {"crack": 20})
    return str(root)


def class_of_one(root: Path) -> str:
    write(root, {"crack": 20, "intact": 1})
    return str(root)


def only_rubbish(root: Path) -> str:
    for label in ("crack", "intact"):
        (root / label).mkdir(parents=True)
        (root / label / "note.jpg").write_text("no image")
    return str(root)


def loose_images(root: Path) -> str:
    root.mkdir()
    (root / "a.jpg").write_bytes(encoded(picture(1)))
    return str(root)


def unknown_scheme(root: Path) -> str:
    return "ftp://somewhere/images"


def bad_query(root: Path) -> str:
    return "synthetic://concrete?count=many"


def broken_zip(root: Path) -> str:
    root.mkdir()
    (root / "images.zip").write_bytes(b"PK\x03\x04 and then nothing")
    return str(root / "images.zip")


def write(root: Path, classes: Mapping[str, int]) -> None:
    for number, (label, count) in enumerate(classes.items()):
        (root / label).mkdir(parents=True)
        for index in range(count):
            (root / label / f"{index}.jpg").write_bytes(encoded(picture(number * 1000 + index), quality=90))


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (empty, 2, "one folder for each class"),
        (missing, 2, "nowhere"),
        (one_class, 3, "min_classes"),
        (class_of_one, 3, "min_per_class"),
        (only_rubbish, 2, "no usable image"),
        (loose_images, 2, "class"),
        (unknown_scheme, 2, "ftp"),
        (bad_query, 2, "count"),
        (broken_zip, 2, "images.zip"),
    ],
)
def test_a_source_that_cannot_be_trained_on_is_told_plainly(
    tmp_path: Path, make: Callable[[Path], str], code: int, words: str
) -> None:
    done = run("data", "check", make(tmp_path / "source"), "--image-size", "32")
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert words in told
    assert "Traceback" not in told
    lines = [line for line in done.stderr.splitlines() if line.startswith("assay: ")]
    assert len(lines) == (1 if code == 2 else 0)
