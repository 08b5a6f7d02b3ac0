import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from assay.data import workers
from assay.data.sources import Sample, Unavailable
from assay.data.sources.folder import FolderSource
from assay.data.workers import Hashed, Worker, available_cpus, parallel
from assay.errors import DataError
from assay.preprocess import Geometry


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in range(20):
        (tmp_path / "images" / "a" / f"{i:02d}").write_bytes(b"no image %d" % i)
    return FolderSource(str(tmp_path / "images"), tmp_path / "images").list()


def worker(tmp_path: Path, folder: Path | None = None) -> Worker:
    source = FolderSource(str(tmp_path / "images"), tmp_path / "images")
    return Worker(source, Geometry(16), 10**6, folder or tmp_path, "t", 4)


def none(batch: Sequence[Hashed]) -> list[int | None]:
    return [None] * len(batch)


def test_batches_are_admitted_and_returned_in_order(tmp_path: Path, samples: list[Sample]) -> None:
    batches = [samples[:1], samples[1:9], samples[9:10], samples[10:]]
    seen: list[int] = []

    def admit(batch: Sequence[Hashed]) -> list[int | None]:
        seen.append(len(batch))
        return [None, *range(1, len(batch))]

    results = list(parallel(worker(tmp_path), batches, admit, 2))
    assert seen == [1, 8, 1, 10]
    assert [(files, len(measured)) for files, measured in results] == [(1, 0), (8, 7), (1, 0), (10, 9)]


def test_no_batches_give_no_results(tmp_path: Path) -> None:
    assert list(parallel(worker(tmp_path), [], none, 2)) == []


def test_a_process_that_dies_is_an_error(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workers._Process.receive

    def receive(process: workers._Process) -> object:
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
        real(process)
        return real(process)

    monkeypatch.setattr(workers._Process, "receive", receive)
    with pytest.raises(DataError, match="exit code -9: it may have run out of memory"):
        list(parallel(worker(tmp_path), [samples], none, 1))


def test_an_error_of_the_disk_in_a_process_is_raised_here(tmp_path: Path, samples: list[Sample]) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        list(parallel(worker(tmp_path, tmp_path / "missing"), [samples], lambda batch: list(range(len(batch))), 1))


@dataclass
class Down(FolderSource):
    def read(self, sample: Sample) -> bytes:
        raise Unavailable(f"{self.uri}: does not answer")


def test_a_source_that_does_not_answer_stops_everything(tmp_path: Path, samples: list[Sample]) -> None:
    down = Worker(Down("s3://bucket", tmp_path), Geometry(16), 10**6, tmp_path, "t", 4)
    with pytest.raises(Unavailable, match="does not answer"):
        list(workers.inline(down, [samples], none))
    assert isinstance(workers._done(down.read, samples), Unavailable)


def test_processes_end_when_the_results_are_no_longer_wanted(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[workers._Process] = []
    real = workers._Process.__enter__
    monkeypatch.setattr(workers._Process, "__enter__", lambda self: started.append(self) or real(self))
    results = parallel(worker(tmp_path), [samples[:10], samples[10:]], none, 2)
    next(results)
    results.close()
    assert [process.process.poll() is None for process in started] == [False, False]


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("150000 100000", 2), ("20000 100000", 1), ("junk", 8), (None, 8)]
)
def test_cpus_are_those_of_the_affinity_within_the_quota(
    quota: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(*_: object, **__: object) -> str:
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(Path, "read_text", read_text)
    assert available_cpus() == expected


def test_sources_that_allow_it_are_read_by_several_threads(tmp_path: Path) -> None:
    import threading

    together = threading.Barrier(3, timeout=20)

    class Remote:
        uri = "memory"
        parallel_reads = 3

        def read(self, sample: Sample) -> bytes:
            together.wait()
            return sample.uri.encode()

    remote = Worker(Remote(), Geometry(16), 10**6, tmp_path, "t", 4)
    found = remote.read([Sample(name, "x", None, "") for name in "abc"])
    assert [hashed.bytes for hashed in found] == [1, 1, 1]
    assert len({hashed.sha256 for hashed in found}) == 3
