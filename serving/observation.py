"""What was predicted, kept for later: to compare production with training, and to find what should be labelled next.

A share of the predictions, chosen by the image's digest so that the same image is always chosen or never, is written as
JSON lines below a folder or an `s3://` prefix: `2026-11-22/20261122T080500Z-4f1c…-000001.jsonl`. A file is there whole
or not at all, and never changes: records are gathered in memory and written when there are enough of them, or when the
first has waited long enough. What a killed process had gathered is lost; what a store cannot take is tried again.

Answering goes before observing. `Observer.observe` takes a digest and appends to a queue with bounds; one thread does
the rest. What does not fit, cannot be encoded or cannot be written is counted, and said once rather than each time.
"""

import base64
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assay.errors import ConfigError
from serving.metrics import Model

if TYPE_CHECKING:
    from obstore.store import S3Store

FORMAT = 1
"""Of a record; raised when a field changes its meaning."""
DECIMALS = 6
"""Of probabilities and of the input statistics."""

Count = Callable[[str, int], None]
"""Told what became of how many records: `written`; `retried`: their file could not be written and is kept for another
try; `dropped`: there was no room, or no time at the end; `failed`: no record could be made of the prediction."""

_LEVELS = np.arange(256, dtype=np.int64)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is held in memory, and when a file is complete."""

    file_bytes: int = 8 * 2**20
    """A file with as much is written; one record may exceed it."""
    file_s: float = 60
    """Nothing waits longer for its file to be written; also the pause after a failed try."""
    files: int = 4
    """Files that could not be written and are kept for another try; beyond that the oldest is given up."""
    queue: int = 1024
    """Predictions that may wait for the writer."""
    queue_bytes: int = 32 * 2**20
    """Memory that their pixels and images may take."""
    pause_s: float = 0.5
    """The writer looks as often; waking it for each prediction would cost those who answer."""
    close_s: float = 5
    """`close` takes no longer."""


def brightness_and_contrast(picture: NDArray[np.uint8] | Image.Image) -> tuple[float, float]:
    """Mean and standard deviation of the luminance of uint8 [h, w, 3] pixels, 0 to 1: as the manifest has them.

    Args:
        picture: the pixels, or the same as Pillow has them, which takes half the time.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    counts = np.array(image.convert("L").histogram(), dtype=np.int64)
    total, squares, n = int(counts @ _LEVELS), int(counts @ _LEVELS**2), int(counts.sum())
    return total / n / 255, (max(squares * n - total * total, 0) ** 0.5) / n / 255


@dataclass(frozen=True, slots=True)
class _Seen:
    """A prediction, as it came in."""

    time: float
    sha256: str
    image: bytes | None
    pixels: NDArray[np.uint8]
    size: tuple[int, int] | None
    probabilities: NDArray[np.float32]
    label: str
    abstained: bool


class Observer:
    """Keeps a share of the predictions; see the module."""

    @classmethod
    def open(
        cls,
        to: str,
        rate: float,
        images: bool,
        model: Model,
        count: Count = lambda outcome, records: None,
        bounds: Bounds = Bounds(),
    ) -> "Observer":
        """An observer that writes below `to`: a folder or `s3://bucket/prefix`. Without either it keeps nothing.

        Args:
            to: need not exist, nor answer now. "": nothing is kept.
            rate: share of the images, 0 to 1. 0: nothing is kept.
            images: whether a record holds the image as it was sent.
            model: what each record says it was predicted by.
            count: told what became of the records, from any thread.
            bounds: of memory, files and time.

        Raises:
            ConfigError, DataError: the rate is none, or the place is of no known kind.
        """
        if not 0 <= rate <= 1:  # NaN fails both comparisons
            raise ConfigError(f"rate of observation {rate}: must be a share from 0 to 1")
        if not to or not rate:
            return cls(0, images, None, count)
        return cls(rate, images, _Writer(_place(to), model, count, bounds), count)

    def __init__(self, rate: float, images: bool, writer: "_Writer | None", count: Count) -> None:
        self._rate, self._images, self._writer, self._count = rate, images, writer, count

    def observe(
        self,
        data: bytes,
        pixels: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
        label: str,
        abstained: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Keep a prediction, if its image is among the chosen. Never waits and never raises.

        Args:
            data: the image file as it was sent.
            pixels: uint8 [s, s, 3], what the model saw; not to be changed afterwards.
            probabilities: float32 [k], in the bundle's order of labels; not to be changed afterwards.
            label: what was answered.
            abstained: whether the model gave no answer.
            size: width and height of the original in pixels, if known.
        """
        if self._writer is None:
            return
        try:
            sha256 = hashlib.sha256(data).hexdigest()
            if chosen(sha256, self._rate):
                image = bytes(data) if self._images else None
                self._writer.add(_Seen(time.time(), sha256, image, pixels, size, probabilities, label, abstained))
        except Exception as error:  # an answer never fails for being observed
            _tell(self._count, "failed", 1)
            _log.debug("a prediction could not be observed", exc_info=error)

    def close(self) -> None:
        """Write what was kept, for a bounded time; what is observed afterwards is dropped."""
        if self._writer is not None:
            self._writer.close()


def chosen(sha256: str, rate: float) -> bool:
    """Whether the image of this digest is in the share `rate`; a greater share holds every smaller one."""
    return int(sha256[:16], 16) < rate * 2**64


class _Waiting:
    """A queue with bounds on length and memory; adding to it never waits."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._changed = threading.Condition()
        self._seen: list[_Seen] = []
        self._bytes = 0
        self._closed = False

    def add(self, seen: _Seen) -> bool:
        """Whether there was room."""
        weight = seen.pixels.nbytes + len(seen.image or b"")
        with self._changed:
            full = len(self._seen) >= self._bounds.queue or self._bytes + weight > self._bounds.queue_bytes
            if full or self._closed:
                return False
            self._seen.append(seen)
            self._bytes += weight
            if self._pressing():
                self._changed.notify()
        return True

    def take(self) -> tuple[list[_Seen], bool]:
        """All that came in by now, and whether no more will; waits a pause for it, less if room gets scarce."""
        with self._changed:
            if not self._closed and not self._pressing():
                self._changed.wait(self._bounds.pause_s)
            taken, self._seen, self._bytes = self._seen, [], 0
            return taken, self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _pressing(self) -> bool:
        return 2 * len(self._seen) >= self._bounds.queue or 2 * self._bytes >= self._bounds.queue_bytes


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    content: bytes
    records: int


class _Writer:
    """The thread that makes records and files of what was seen."""

    def __init__(self, place: "_Place", model: Model, count: Count, bounds: Bounds) -> None:
        self._place, self._count, self._bounds = place, count, bounds
        self._model = {"name": model.name, "version": model.version, "digest": model.digest}
        self._waiting = _Waiting(bounds)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._since = 0.0
        self._files: deque[_File] = deque()
        self._not_before = 0.0
        self._token, self._number = secrets.token_hex(8), 0
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="assay-observation", daemon=True)
        self._thread.start()

    def add(self, seen: _Seen) -> None:
        if not self._waiting.add(seen):
            self._trouble("dropped", 1, "no room for what is observed: predictions are answered, but not kept")

    def close(self) -> None:
        self._waiting.close()
        self._thread.join(self._bounds.close_s)
        if self._thread.is_alive():
            _log.warning("observations for %s are given up: not written in %g s", self._place, self._bounds.close_s)

    def _run(self) -> None:
        last = False
        while not last:
            seen, last = self._waiting.take()
            try:
                self._round(seen, last)
            except Exception as error:  # the thread must not end while the service lives
                self._trouble("failed", 1, f"the writer of observations stumbled: {error!r}")
        left = sum(file.records for file in self._files) + len(self._lines)
        if left:
            self._trouble("dropped", left, f"{left} observations are lost: {self._place} could not be written")

    def _round(self, seen: list[_Seen], last: bool) -> None:
        for one in seen:
            self._record(one)
        if self._lines and (last or time.monotonic() - self._since >= self._bounds.file_s):
            self._complete()
        self._write(last)

    def _record(self, seen: _Seen) -> None:
        try:
            line = _line(seen, self._model)
        except Exception as error:  # whatever a model may give that JSON cannot hold
            self._trouble("failed", 1, f"a prediction cannot be kept: {error!r}")
            return
        if not self._lines:
            self._since = time.monotonic()
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= self._bounds.file_bytes:
            self._complete()

    def _complete(self) -> None:
        """Make a file of the records that were gathered. It keeps its name: a second try makes no second file."""
        self._number += 1
        now = datetime.now(UTC)
        name = f"{now:%Y-%m-%d}/{now:%Y%m%dT%H%M%SZ}-{self._token}-{self._number:06d}.jsonl"
        self._files.append(_File(name, b"".join(self._lines), len(self._lines)))
        self._lines, self._bytes = [], 0

    def _write(self, last: bool) -> None:
        if last or time.monotonic() >= self._not_before:
            while self._files and self._written(self._files[0]):
                self._files.popleft()
        while len(self._files) > self._bounds.files:
            lost = self._files.popleft()
            self._trouble("dropped", lost.records, f"observations are given up: {self._place} takes none")

    def _written(self, file: _File) -> bool:
        try:
            self._place.put(file.name, file.content)
        except BaseException as error:  # a panic in the store's client is no Exception
            self._not_before = time.monotonic() + self._bounds.file_s
            self._trouble("retried", file.records, f"observations cannot be written now: {error}")
            return False
        self._said.discard("retried")
        _tell(self._count, "written", file.records)
        return True

    def _trouble(self, outcome: str, records: int, text: str) -> None:
        """Count it, and say it once: again only if a file could be written in between and then another could not."""
        _tell(self._count, outcome, records)
        if outcome not in self._said:
            self._said.add(outcome)
            _log.warning("%s", " ".join(text.split()))


def _tell(count: Count, outcome: str, records: int) -> None:
    try:
        count(outcome, records)
    except Exception as error:
        _log.debug("%s observations (%s) could not be counted", records, outcome, exc_info=error)


def _line(seen: _Seen, model: dict[str, str]) -> bytes:
    """The record as one line of JSON. ValueError: a probability is not finite."""
    brightness, contrast = brightness_and_contrast(seen.pixels)
    width, height = seen.size or (None, None)
    record: dict[str, Any] = {
        "format": FORMAT,
        "time": datetime.fromtimestamp(seen.time, UTC).isoformat(timespec="milliseconds"),
        "sha256": seen.sha256,
        "width": width,
        "height": height,
        "brightness": round(brightness, DECIMALS),
        "contrast": round(contrast, DECIMALS),
        "label": seen.label,
        "abstained": bool(seen.abstained),
        "probabilities": np.round(seen.probabilities.astype(np.float64), DECIMALS).tolist(),
        "model": model,
    }
    if seen.image is not None:
        record["image"] = base64.b64encode(seen.image).decode()
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class _Place(Protocol):
    """Where files are kept."""

    def put(self, name: str, content: bytes) -> None:
        """Write all of a file, or nothing of it (any exception)."""
        ...


def _place(to: str) -> _Place:
    if to.startswith("s3://"):
        return _bucket(to)
    if "://" in to:
        raise ConfigError(f"{to}: observations go to a folder or to s3://bucket/prefix")
    return _Folder(Path(to))


def _bucket(to: str) -> "_Bucket":
    try:
        import obstore  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigError(f"{to}: the package obstore is not installed; install it, or observe to a folder") from None
    from assay.data.sources.s3 import connect, parse  # noqa: PLC0415

    bucket, key = parse(to)
    return _Bucket(connect(bucket), to, key.strip("/"))


@dataclass(frozen=True, slots=True)
class _Folder:
    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def put(self, name: str, content: bytes) -> None:
        path = self.root / name
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@dataclass(frozen=True, slots=True)
class _Bucket:
    store: "S3Store"
    uri: str
    prefix: str

    def __str__(self) -> str:
        return self.uri

    def put(self, name: str, content: bytes) -> None:
        import obstore  # noqa: PLC0415

        from assay.data.sources.s3 import one_line  # noqa: PLC0415

        with one_line(self.uri):
            # In one request, which a store takes whole or not at all.
            obstore.put(self.store, f"{self.prefix}/{name}".lstrip("/"), content, use_multipart=False)
