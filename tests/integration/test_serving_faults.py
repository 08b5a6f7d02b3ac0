"""The service as `assay serve` runs it, and what can go wrong with its clients, processes, disk and files."""

import http.client
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from asking import ask
from PIL import Image

from assay.errors import BundleError
from assay.models.bundle import Bundle
from assay.service import ServiceError, free_port, running

from badinput import refused, unusual
from pictures import encoded, picture
from toybundle import expected, pixels, toy_bundle

pytestmark = pytest.mark.long

JPEG = encoded(picture(2))
PATIENCE_S = 60
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n"


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        return ask(self.port, method, path, body)

    def predict(self, body: object = JPEG) -> int:
        return self.ask("POST", "/v1/predict", body)[0]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/v1/metrics")[1].decode()
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def worker(self) -> psutil.Process:
        """The process that answers; the other one only watches over it."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "_bentoml_impl.worker" in " ".join(child.cmdline()))

    def resident(self) -> int:
        return int(self.worker().memory_info().rss)


Start = Callable[..., Service]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def start(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A function that starts the service with settings of one's own; it ends with the test."""
    with ExitStack() as stack:

        def started(**settings: object) -> Service:
            for name, value in settings.items():
                monkeypatch.setenv(f"ASSAY_SERVE_{name.upper()}", str(value))
            port = free_port()
            return Service(port, stack.enter_context(running(bundle, "1", port)))

        yield started


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(tmp_path_factory.mktemp("service") / ".assay"))
        port = free_port()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))  # as in many a shell
        try:
            stack = ExitStack()
            process = stack.enter_context(running(bundle, "1", port))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with stack:
            yield Service(port, process)


def wait_for(what: Callable[[], bool], reason: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, reason
        time.sleep(0.05)


# Clients --------------------------------------------------------------------------------------------------------------


def test_a_thousand_connections_keep_nobody_out(service: Service) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"no more than {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    before = service.resident()
    try:
        with ExitStack() as stack:
            for number in range(1000):
                one = stack.enter_context(service.connect())
                one.sendall((b"", HEAD[:20], HEAD, HEAD + b"Content-Length: 99999\r\n\r\n\xff\xd8\xff")[number % 4])
            assert [service.predict() for _ in range(20)] == [200] * 20
            assert service.worker().num_fds() > 1000
        wait_for(lambda: service.worker().num_fds() < 200, "the connections were not let go")
        assert service.predict() == 200
        assert service.resident() - before < 60_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_slow_body_is_given_up_and_a_slow_header_keeps_nobody_waiting(start: Start) -> None:
    service = start(body_timeout_s=1)
    with service.connect() as body, service.connect() as header:
        body.sendall(HEAD + b"Content-Length: 99999\r\n\r\n")
        for place in range(10):
            body.sendall(JPEG[place : place + 1])
            header.sendall(HEAD[place : place + 1])
            assert service.predict() == 200
        assert body.recv(12) == b"HTTP/1.1 408"


def test_clients_that_go_in_the_middle_leave_nothing_behind(service: Service) -> None:
    large = encoded(Image.new("L", (4000, 4000), 9), "PNG")
    for sent in (b"", large[:1000], large) * 10:
        with service.connect() as one:
            one.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(large) + sent)
    assert service.predict() == 200
    wait_for(lambda: service.metric("assay_queue_running") + service.metric("assay_queue_waiting") == 0, "work is left")


def hundred_megabytes(service: Service, announced: bool) -> int:
    """Status of the answer to a body of 100 MB, which comes before the body has been sent."""
    kind = b"Content-Length: 100000000\r\n\r\n" if announced else b"Transfer-Encoding: chunked\r\n\r\n"
    piece = bytes(2**20) if announced else b"100000\r\n" + bytes(2**20) + b"\r\n"
    with service.connect() as one:
        one.sendall(HEAD + kind)
        try:
            for _ in range(96):
                one.sendall(piece)
        except OSError:  # the service has answered and does not listen any more
            pass
        return int(one.recv(12)[9:])


def test_many_bodies_of_a_hundred_megabytes_are_refused_and_forgotten(service: Service) -> None:
    before = service.resident()
    with ThreadPoolExecutor(12) as clients:
        for announced in (True, False, False, False):
            statuses = set(clients.map(lambda _, known=announced: hundred_megabytes(service, known), range(12)))
            assert statuses <= {413, 503}  # 503: those of others are held just now
            assert 413 in statuses
            wait_for(lambda: service.predict() == 200, "it does not answer any more")
            wait_for(lambda: service.resident() - before < 60_000_000, "memory is kept")  # of 1,200 that were sent


def test_memory_is_back_where_it_was_after_all_that_is_bad(service: Service) -> None:
    large = [encoded(Image.new(mode, (3000, 3000), 9), "PNG") for mode in ("L", "RGB", "RGBA")]
    bodies = [*(data for data, _, _ in refused().values()), *unusual().values(), *large]
    held = []
    with ThreadPoolExecutor(4) as clients:
        for _ in range(3):
            assert max(clients.map(service.predict, bodies)) < 500
            held.append(service.resident())
    assert service.predict() == 200
    assert held[-1] - held[0] < 20_000_000, held


# Processes ------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_under_load_is_replaced(start: Start) -> None:
    service, ended, told = start(), threading.Event(), []

    def load() -> None:
        while not ended.is_set():
            try:
                told.append(service.predict())
            except (OSError, http.client.HTTPException):  # what was in work is lost with the process
                time.sleep(0.05)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        wait_for(lambda: len(told) > 20, "there is no load")
        before = service.worker()
        before.kill()
        psutil.wait_procs([before], PATIENCE_S)
        answered = len(told)
        wait_for(lambda: len(told) > answered + 20, "no worker came back")
        assert service.worker().pid != before.pid
    finally:
        ended.set()
        for one in clients:
            one.join(PATIENCE_S)
    assert set(told) == {200}


def test_what_was_let_in_before_sigterm_is_answered(start: Start) -> None:
    service = start(timeout_s=200, concurrency=2)
    slow = encoded(Image.new("L", (7000, 7000), 9), "PNG")
    with ThreadPoolExecutor(16) as clients:
        told = [clients.submit(service.predict, slow) for _ in range(16)]
        wait_for(lambda: let_in(service) >= 8, "nothing waits")
        wait_for(lambda: sum(one.done() for one in told) + let_in(service) >= 16, "not all are in")
        assert not all(one.done() for one in told)
        service.process.send_signal(signal.SIGTERM)
        assert [one.result(PATIENCE_S) for one in told] == [200] * 16
    assert service.process.wait(PATIENCE_S) == 0


def let_in(service: Service) -> float:
    return service.metric("assay_queue_waiting") + service.metric("assay_queue_running")


def test_nothing_is_left_behind_however_it_ends(
    start: Start, bundle: Bundle, tmp_path: Path, assay_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for sign in (None, signal.SIGTERM, signal.SIGKILL):
        port = free_port()
        with running(bundle, "1", port) as process:
            assert Service(port, process).predict() == 200
            family = [process.pid, Service(port, process).worker().pid]
            if sign is not None:
                os.killpg(process.pid, sign)
                process.wait(PATIENCE_S)
        wait_for(lambda family=family: not any(map(alive, family)), "a process is left")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert list((assay_home / "tmp").iterdir()) == []


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_observation_and_not_the_answers(start: Start, tmp_path: Path) -> None:
    service = start(observe_to=tmp_path / "seen", observe_rate=1, observe_images=True)
    worker = service.worker()
    # As a disk that takes no more than 2 MB a file, though it is not our own.
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    grain = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    for number in range(9):
        grain[0, 0] = number
        assert service.predict(encoded(Image.fromarray(grain), "BMP")) == 200
    wait_for(lambda: service.metric('assay_observations_total{outcome="retried"}') > 0, "nothing was written at all")
    assert service.predict() == 200
    assert service.worker().pid == worker.pid
    assert not [path for path in (tmp_path / "seen").rglob("*") if path.is_file()]


def test_a_bundle_with_any_file_altered_is_not_served(tmp_path: Path) -> None:
    for name in sorted(path.name for path in toy_bundle(tmp_path / "whole").folder.iterdir()):
        made = toy_bundle(tmp_path / name)
        data = bytearray((made.folder / name).read_bytes() or b"\0")
        data[len(data) // 2] ^= 1
        (made.folder / name).write_bytes(data)
        with pytest.raises(BundleError, match=re.escape(name)):
            Bundle.load(made.folder, made.digest)
        if name not in ("bundle.json", "model.onnx"):  # a start costs seconds
            continue
        with pytest.raises(ServiceError, match="ended with code 2: ") as caught, running(made, "1", free_port()):
            pass
        assert name in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_worker_that_cannot_load_the_model_ends_the_service(tmp_path: Path, assay_home: Path) -> None:
    other = toy_bundle(tmp_path / "other", golden=expected(pixels(3))[:, ::-1].copy())
    with (
        pytest.raises(ServiceError, match=r"ended with code 2: .*golden outputs differ"),
        running(other, "1", free_port()),
    ):
        pass
    (log,) = (assay_home / "logs").iterdir()
    assert log.read_text().count("golden outputs differ") == 1
    assert "Traceback" not in log.read_text()
