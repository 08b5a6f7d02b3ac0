"""The processes that read and decode the files of a scan.

Each batch of files is worked on in two strides. A worker reads and hashes the files; the parent, which hears of the
batches in their order, says which contents are new and at which place each belongs; the worker decodes those and puts
their pixels there. So every content is decoded once, and where it lies depends on the listing alone: not on how many
workers there are, nor on which is faster.

A worker is a fresh interpreter that imports this module and what the source needs. A fork would inherit the locks of
threads (torch's, ONNX Runtime's, a progress bar's) that do not exist in the child, and multiprocessing's spawn would
import the parent's main module again: ZenML's or pytest's.
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from assay.data import shards
from assay.data.measure import measure
from assay.data.sources import Sample, Source
from assay.errors import AssayError, DataError
from assay.preprocess import Geometry, Unreadable, inspect


@dataclass(frozen=True, slots=True)
class Hashed:
    """What the first stride says of a file: its content's digest, or why it could not be read."""

    sha256: str
    bytes: int
    fault: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What the second stride says of a content; all but `fault` is blank where it is no usable image."""

    fault: str
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    phash: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    sums: tuple[int, int, int] = (0, 0, 0)
    squares: tuple[int, int, int] = (0, 0, 0)


Admit = Callable[[Sequence[Hashed]], "list[int | None]"]
"""From what is known of a batch to the place of each file: a running number over all new contents; None: not new."""

Results = Generator[tuple[int, list[Measured]], None, None]
"""Of each batch: its number of files, and what each content is that was admitted, in order."""


@dataclass
class Worker:
    """Does both strides. Place `p` is row `p % rows_a_shard` of new shard `p // rows_a_shard`."""

    source: Source
    geometry: Geometry
    max_pixels: int
    folder: Path
    token: str
    """In the names of the files that this scan writes: a worker whose scan was killed must not write in another's."""
    rows_a_shard: int
    _kept: list[bytes] = field(default_factory=list)

    def partial(self, shard: int) -> Path:
        """The file in which the new shard of this number is being written."""
        return self.folder / f".{self.token}-{shard}.npy.partial"

    def clean(self) -> None:
        """Remove what is still being written."""
        for path in self.folder.glob(f".{self.token}-*.partial"):
            path.unlink(missing_ok=True)

    def read(self, samples: Sequence[Sample]) -> list[Hashed]:
        """Read the files of a batch, and keep their bytes for `decode`."""
        threads = min(len(samples), getattr(self.source, "parallel_reads", 1))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(self._read, samples))
        else:
            found = [self._read(sample) for sample in samples]
        self._kept = [data for data, _ in found]
        return [hashed for _, hashed in found]

    def decode(self, places: Sequence[int | None]) -> list[Measured]:
        """Decode those files of the batch that have a place, and put their pixels there.

        Raises:
            OSError: a shard could not be written.
        """
        kept, self._kept = self._kept, []
        with ExitStack() as files:
            opened: dict[int, int] = {}
            admitted = [(data, place) for data, place in zip(kept, places, strict=True) if place is not None]
            for shard in {place // self.rows_a_shard for _, place in admitted}:
                opened[shard] = os.open(self.partial(shard), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                files.callback(os.close, opened[shard])
            return [self._decode(data, opened[p // self.rows_a_shard], p % self.rows_a_shard) for data, p in admitted]

    def _read(self, sample: Sample) -> tuple[bytes, Hashed]:
        try:
            data = self.source.read(sample)
        except DataError as error:
            return b"", Hashed("", 0, str(error))
        except OSError as error:
            return b"", Hashed("", 0, f"cannot be read: {error.strerror or type(error).__name__}")
        return data, Hashed(hashlib.sha256(data).hexdigest(), len(data), "")

    def _decode(self, data: bytes, descriptor: int, row: int) -> Measured:
        try:
            image = inspect(data, self.geometry, self.max_pixels)
        except Unreadable as error:
            return Measured(error.reason)
        m = measure(image.pixels, image.image)
        shards.write_image(descriptor, row, image.pixels)
        return Measured(
            "",
            image.width,
            image.height,
            image.mode,
            image.format,
            m.phash,
            m.brightness,
            m.contrast,
            m.sums,
            m.squares,
        )


def inline(worker: Worker, batches: Iterable[Sequence[Sample]], admit: Admit) -> Results:
    """The results of `batches`, in this process."""
    for batch in batches:
        yield len(batch), worker.decode(admit(worker.read(batch)))


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its container (cgroup version 2)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cpus, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or the quota is "max"
        return cpus


def parallel(worker: Worker, batches: Iterable[Sequence[Sample]], admit: Admit, processes: int) -> Results:
    """The results of `batches`, in their order, worked on in `processes` processes; `batches` is drawn from as needed.

    Raises:
        DataError: a process died.
        OSError: a shard could not be written.
    """
    with ExitStack() as stack:
        crew = [stack.enter_context(_Process()) for _ in range(processes)]
        for process in crew:
            process.send(worker)
        yield from _Rounds(crew, iter(batches), admit).results()


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Each process is to use one CPU; numpy would start threads for all of them in each."""


class _Rounds:
    """Who works on which batch. Admission and results go in the order of the batches."""

    def __init__(self, crew: "list[_Process]", batches: Iterator[Sequence[Sample]], admit: Admit) -> None:
        self.crew, self.batches, self.admit = crew, batches, admit
        self.given = self.admitted = 0
        self.hashed: dict[int, tuple[_Process, list[Hashed]]] = {}
        self.done: dict[int, tuple[int, list[Measured]]] = {}

    def results(self) -> Results:
        for process in self.crew:
            self._give(process)
        returned = 0
        while returned < self.given:
            for process in _ready([process for process in self.crew if process.batch is not None]):
                self._hear(process)
            while returned in self.done:
                yield self.done.pop(returned)
                returned += 1

    def _give(self, process: "_Process") -> None:
        batch = next(self.batches, None)
        process.batch = None if batch is None else self.given
        if batch is not None:
            process.files = len(batch)
            process.send(batch)
            self.given += 1

    def _hear(self, process: "_Process") -> None:
        number, message = process.batch, process.receive()
        assert number is not None
        if number < self.admitted:
            self.done[number] = (process.files, message)
            self._give(process)
            return
        self.hashed[number] = (process, message)
        while self.admitted in self.hashed:
            waiting, hashed = self.hashed.pop(self.admitted)
            waiting.send(self.admit(hashed))
            self.admitted += 1


class _Process:
    """One worker process, and the pipe to it."""

    def __init__(self) -> None:
        self.batch: int | None = None
        self.files = 0
        self.pipe, theirs = Pipe()
        with theirs:
            environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-P", "-c", f"from {__name__} import main; main({theirs.fileno()})"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()]
            )

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.wait()

    def send(self, message: object) -> None:
        try:
            self.pipe.send(message)
        except OSError:
            raise self._died() from None

    def receive(self) -> "list[Any]":
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(message, Exception):
            raise message
        return list(message)

    def _died(self) -> DataError:
        code = self.process.wait()
        hint = "it may have run out of memory; give the scan fewer workers" if code < 0 else "its output stands above"
        return DataError(f"a process of the scan ended with exit code {code}: {hint}")


def _ready(busy: list[_Process]) -> list[_Process]:
    """Those that have something to say; waits until one has."""
    heard = wait([process.pipe for process in busy])
    return [process for process in busy if process.pipe in heard]


def main(descriptor: int) -> None:
    """A worker process: `descriptor` is its end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the parent decides, and closes the pipe
    with Connection(descriptor) as pipe:
        worker = _received(pipe)
        while (batch := _received(pipe)) is not None:
            _send(pipe, _done(worker.read, batch))
            if (places := _received(pipe)) is None:
                return
            _send(pipe, _done(worker.decode, places))


def _done(stride: Callable[[Any], object], argument: object) -> object:
    """What `stride` returns, or an error that the parent is to raise."""
    try:
        return stride(argument)
    except (OSError, AssayError) as error:
        return error


def _received(pipe: "Connection[Any, Any]") -> Any:
    """The next message; None when the parent is gone, however it went."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _send(pipe: "Connection[Any, Any]", message: object) -> None:
    with suppress(OSError):  # the next _received says that the parent is gone
        pipe.send(message)
