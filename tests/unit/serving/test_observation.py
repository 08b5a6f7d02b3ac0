"""What is kept of predictions: whole records in whole files, and never a word to those who wait for an answer."""

import base64
import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.data.measure import measure
from assay.errors import AssayError
from serving import observation
from serving.observation import Bounds, Observer, brightness_and_contrast, chosen

ROOT = Path(__file__).parents[3]
QUICK = Bounds(pause_s=0.01)
PROBABILITIES = np.array([0.25, 0.75], np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Served:
    name: str = "colours"
    version: str = "3"
    digest: str = "d" * 64
    labels: tuple[str, ...] = ("blue", "red")


class Counts(Counter[str]):
    """What the observer reports."""

    def __call__(self, outcome: str, records: int) -> None:
        self[outcome] += records


@pytest.fixture
def counts() -> Counts:
    return Counts()


Open = Callable[..., Observer]


@pytest.fixture
def opened(tmp_path: Path, counts: Counts) -> Iterator[Open]:
    """A function that opens an observer of everything, to `tmp_path/kept`; closed with the test."""
    observers = []

    def open_(to: str = "", rate: float = 1, images: bool = False, bounds: Bounds = QUICK) -> Observer:
        observers.append(Observer.open(to or str(tmp_path / "kept"), rate, images, Served(), counts, bounds))
        return observers[-1]

    yield open_
    for observer in observers:
        observer.close()


def see(observer: Observer, data: bytes = b"image", **changes: Any) -> None:
    values = {"pixels": PIXELS, "probabilities": PROBABILITIES, "label": "red", "abstained": False}
    observer.observe(data, **{**values, **changes})


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def records(root: Path) -> list[dict[str, Any]]:
    lines = b"".join(path.read_bytes() for path in files(root)).split(b"\n")
    assert lines[-1] == b"", "the last line has an end"
    return [json.loads(line) for line in lines[:-1]]


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_a_prediction_becomes_a_record(opened: Open, tmp_path: Path, counts: Counts) -> None:
    observer = opened()
    see(observer, abstained=True, size=(640, 480))
    observer.close()
    (record,) = records(tmp_path / "kept")
    brightness, contrast = brightness_and_contrast(PIXELS)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "format": 1,
        "sha256": hashlib.sha256(b"image").hexdigest(),
        "width": 640,
        "height": 480,
        "brightness": round(brightness, 6),
        "contrast": round(contrast, 6),
        "label": "red",
        "abstained": True,
        "probabilities": [0.25, 0.75],
        "model": {"name": "colours", "version": "3", "digest": "d" * 64},
    }
    assert counts == {"written": 1}


def test_a_size_that_is_not_known_is_null(opened: Open, tmp_path: Path) -> None:
    observer = opened()
    see(observer)
    observer.close()
    assert [(r["width"], r["height"]) for r in records(tmp_path / "kept")] == [(None, None)]


def test_the_image_only_if_asked_for(opened: Open, tmp_path: Path) -> None:
    observer = opened(images=True)
    see(observer, b"\x00\xff any bytes\n")
    observer.close()
    (record,) = records(tmp_path / "kept")
    assert base64.b64decode(record["image"]) == b"\x00\xff any bytes\n"


@pytest.mark.parametrize(("to", "rate"), [("", 1), ("kept", 0), ("", 0)])
def test_without_a_place_or_a_rate_nothing_is_kept(tmp_path: Path, to: str, rate: float) -> None:
    before = threading.active_count()
    observer = Observer.open(str(tmp_path / to) if to else "", rate, True, Served())
    assert threading.active_count() == before
    see(observer)
    observer.close()
    assert not files(tmp_path)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_must_be_a_share(tmp_path: Path, rate: float) -> None:
    with pytest.raises(AssayError, match="a share from 0 to 1"):
        Observer.open(str(tmp_path), rate, False, Served())


@pytest.mark.parametrize("to", ["http://example/x", "gs://bucket/x", "s3://", "s3://?/x", "file:///tmp/x"])
def test_a_place_of_no_known_kind_is_told_at_the_start(to: str) -> None:
    with pytest.raises(AssayError) as caught:
        Observer.open(to, 1, False, Served())
    assert to.partition("?")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bucket_without_its_package_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(AssayError, match=r"^s3://bucket/seen: the package obstore is not installed; install it, or"):
        Observer.open("s3://bucket/seen", 1, False, Served())


def test_the_same_images_are_chosen_again(opened: Open, tmp_path: Path) -> None:
    images = [str(number).encode() for number in range(400)]
    for place in ("first", "second"):
        observer = opened(str(tmp_path / place), rate=0.25)
        for data in images:
            see(observer, data)
        observer.close()
    first, second = ({r["sha256"] for r in records(tmp_path / place)} for place in ("first", "second"))
    assert first == second
    assert 60 < len(first) < 140


@given(st.binary(max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_share_holds_every_smaller_one(data: bytes, one: float, other: float) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    assert chosen(sha256, max(one, other)) or not chosen(sha256, min(one, other))
    assert chosen(sha256, 1)
    assert not chosen(sha256, 0)


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.integers(1, 256))
def test_statistics_are_those_of_the_manifest(seed: int, height: int, width: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width, 3), dtype=np.uint8)
    expected = measure(pixels)
    assert brightness_and_contrast(pixels) == pytest.approx((expected.brightness, expected.contrast), abs=1e-12)


def test_a_file_ends_with_its_size(opened: Open, tmp_path: Path) -> None:
    observer = opened(bounds=replace(QUICK, file_bytes=1000))
    for number in range(20):
        see(observer, str(number).encode())
    observer.close()
    assert len(files(tmp_path / "kept")) > 3
    assert len({record["sha256"] for record in records(tmp_path / "kept")}) == 20


def test_a_file_ends_with_its_age(opened: Open, tmp_path: Path) -> None:
    see(opened(bounds=replace(QUICK, file_s=0.05)))
    until(lambda: list((tmp_path / "kept").rglob("*.jsonl")))  # while it is written it has another name
    assert len(records(tmp_path / "kept")) == 1


def test_a_young_small_file_waits(opened: Open, tmp_path: Path) -> None:
    observer = opened()
    see(observer)
    time.sleep(0.1)
    assert not files(tmp_path)
    observer.close()
    assert files(tmp_path)


def test_two_writers_share_a_folder(opened: Open, tmp_path: Path) -> None:
    first, second = opened(), opened()
    for number in range(10):
        see(first, b"a%d" % number)
        see(second, b"b%d" % number)
    first.close()
    second.close()
    assert len(files(tmp_path / "kept")) == 2
    assert len(records(tmp_path / "kept")) == 20


def fail_times(monkeypatch: pytest.MonkeyPatch, name: str, times: float, error: BaseException) -> Callable[[], int]:
    """Let `observation._Folder.<name>` fail so often; gives a function that tells how often it was called."""
    real, calls = getattr(observation._Folder, name), [0]

    def failing(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return real(*given)

    monkeypatch.setattr(observation._Folder, name, failing)
    return lambda: calls[0]


class Panic(BaseException):
    """As the object store's client raises it: no Exception."""


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Panic("unwrap on None")])
def test_what_could_not_be_written_is_tried_again_and_said_once(
    opened: Open,
    tmp_path: Path,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    fail_times(monkeypatch, "put", 3, error)
    see(opened(bounds=replace(QUICK, file_s=0.02)))
    until(lambda: counts["written"])
    assert len(records(tmp_path / "kept")) == 1
    assert counts == {"retried": 3, "written": 1}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(error) in caplog.text


def test_a_new_trouble_is_said_anew(
    opened: Open, counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    observer = opened(bounds=replace(QUICK, file_s=0.02))
    for number in (1, 2):
        with monkeypatch.context() as patch:
            fail_times(patch, "put", 1, OSError("full"))
            see(observer)
            until(lambda wanted=number: counts["written"] == wanted)
    assert len(caplog.records) == 2


def test_a_place_that_stays_full_costs_bounded_memory(
    opened: Open, tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_times(monkeypatch, "put", float("inf"), OSError(errno.ENOSPC, "No space left on device"))
    observer = opened(bounds=replace(QUICK, file_bytes=1, files=2))
    for number in range(50):
        see(observer, str(number).encode())
    until(lambda: counts["dropped"] == 48)
    observer.close()
    assert counts["dropped"] == 50
    assert not files(tmp_path)


PARTIAL = """
import resource, sys
from pathlib import Path
from serving.observation import _Folder
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    _Folder(Path(sys.argv[1])).put("day/file.jsonl", bytes(20_000))
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARTIAL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "File too large\n"
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_made_stops_nothing(opened: Open, tmp_path: Path, counts: Counts) -> None:
    (tmp_path / "file").write_text("in the way")
    observer = opened(str(tmp_path / "file" / "kept"))
    see(observer)
    observer.close()
    assert counts == {"retried": 1, "dropped": 1}


def test_a_writer_that_hangs_stops_neither_answers_nor_the_end(
    opened: Open, counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = threading.Event()
    monkeypatch.setattr(observation._Folder, "put", lambda *_: free.wait(60))
    try:
        observer = opened(bounds=replace(QUICK, file_s=0, queue=3, close_s=0.05))
        see(observer)
        until(lambda: observer._writer is not None and observer._writer._files)
        for _ in range(10):
            see(observer)
        assert counts["dropped"] == 7
        observer.close()
        assert "given up" in caplog.text
    finally:
        free.set()


def test_memory_that_waits_is_bounded(
    opened: Open, counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observation._Waiting, "_pressing", lambda _: False)  # so that the writer sleeps
    observer = opened(bounds=Bounds(pause_s=60, queue_bytes=10 * PIXELS.nbytes, close_s=60))
    for _ in range(30):
        see(observer)
    observer.close()
    assert counts == {"written": 10, "dropped": 20}
    assert len(caplog.records) == 1, "said once"


def test_a_filling_queue_wakes_the_writer(opened: Open, counts: Counts) -> None:
    observer = opened(bounds=Bounds(pause_s=60, queue=4, file_bytes=1))
    see(observer)
    see(observer)
    until(lambda: counts["written"] == 2)


def test_what_makes_no_record_is_counted_and_the_next_one_kept(opened: Open, tmp_path: Path, counts: Counts) -> None:
    observer = opened()
    see(observer, probabilities=np.array([np.nan, 1], np.float32))
    see(observer, pixels=np.zeros((2, 2, 7), np.uint8))
    see(observer, label=b"bytes")
    see(observer, pixels=None)
    see(observer, data=None)
    see(observer)
    observer.close()
    assert len(records(tmp_path / "kept")) == 1
    assert counts == {"failed": 5, "written": 1}


def test_a_writer_that_stumbles_goes_on(
    opened: Open, tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stumbled = observation._Writer._round, threading.Event()

    def stumbling(*given: Any) -> None:
        if not stumbled.is_set():
            stumbled.set()
            raise RuntimeError("nobody thought of this")
        real(*given)

    monkeypatch.setattr(observation._Writer, "_round", stumbling)
    observer = opened()
    assert stumbled.wait(30)
    see(observer)
    observer.close()
    assert len(records(tmp_path / "kept")) == 1
    assert counts == {"failed": 1, "written": 1}


def test_a_count_that_fails_harms_nothing(tmp_path: Path) -> None:
    def failing(outcome: str, records: int) -> None:
        raise RuntimeError(outcome)

    observer = Observer.open(str(tmp_path), 1, False, Served(), failing, QUICK)
    see(observer, data=None)
    see(observer)
    observer.close()
    assert len(records(tmp_path)) == 1


def test_after_the_end_predictions_are_dropped(opened: Open, tmp_path: Path, counts: Counts) -> None:
    observer = opened()
    observer.close()
    observer.close()
    see(observer)
    assert counts == {"dropped": 1}
    assert not files(tmp_path)


def test_text_of_any_kind_stays_on_its_line(opened: Open, tmp_path: Path) -> None:
    label = 'a\nb\u2028c"\\ 裂缝 \ud800'
    observer = opened()
    see(observer, label=label)
    observer.close()
    (path,) = files(tmp_path / "kept")
    assert len(path.read_text().splitlines()) == 1
    assert records(tmp_path / "kept")[0]["label"] == label


def test_many_threads_lose_nothing(opened: Open, tmp_path: Path, counts: Counts) -> None:
    observer = opened()

    def work(worker: int) -> None:
        for number in range(100):
            see(observer, b"%d-%d" % (worker, number))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    observer.close()
    assert len({record["sha256"] for record in records(tmp_path / "kept")}) == 400
    assert counts == {"written": 400}


@pytest.fixture
def bucket_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("bucket_environment")
def test_a_bucket_out_of_reach_is_counted_and_said(
    opened: Open, counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("assay.data.sources.s3.RETRIES", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    observer = opened("s3://bucket/seen", bounds=replace(QUICK, close_s=60))
    see(observer)
    observer.close()
    assert counts == {"retried": 1, "dropped": 1}
    assert "s3://bucket/seen: no answer from http://127.0.0.1" in caplog.text


@pytest.mark.usefixtures("bucket_environment")
def test_an_endpoint_that_is_none_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(AssayError, match="AWS_ENDPOINT_URL"):
        Observer.open("s3://bucket/seen", 1, False, Served())


SILENT = """
import sys
from types import SimpleNamespace
import numpy as np
from serving.observation import Bounds, Observer
model = SimpleNamespace(name="colours", version="3", digest="d", labels=("blue", "red"))
observer = Observer.open("s3://bucket/seen", 1, False, model, bounds=Bounds(file_s=0, pause_s=0.01, close_s=0.5))
observer.observe(b"image", np.zeros((8, 8, 3), np.uint8), np.array([0, 1], np.float32), "red", False)
observer.close()
print("closed", flush=True)
"""


@pytest.mark.usefixtures("bucket_environment")
def test_a_process_ends_well_while_a_store_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "closed\n")
    assert "given up" in done.stderr
