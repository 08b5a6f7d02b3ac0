"""The service as it is run: BentoML, a worker process, a real socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from asking import ask
from PIL import Image

import serving
from assay.models.predictor import Predictor

from badinput import refused, unusual
from pictures import encoded, picture
from toybundle import toy_bundle

ROOT = Path(serving.__file__).parents[1]
JPEG = encoded(picture(2))
PATIENCE_S = 60
LONGEST_S = "300"
"""A service ends itself after this long, should nobody be left to end it."""


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        return ask(self.port, method, path, body, headers)

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/v1/metrics")[1].decode()
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def worker(self) -> psutil.Process:
        """The process that answers; the other one only watches over it."""
        (supervisor,) = psutil.Process(self.process.pid).children()
        return next(child for child in supervisor.children() if "worker" in " ".join(child.cmdline()))


@contextmanager
def running(folder: Path, bundle: Path, **settings: str) -> Iterator[Service]:
    """A service of its own on a free port; it and its workers are gone afterwards, however the test ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:AssayService", "--host", "127.0.0.1"]
    command = ["timeout", "--kill-after=10", LONGEST_S, *command, "--port", str(port)]
    own = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "TMPDIR": str(folder),
        "ASSAY_SERVE_BUNDLE": str(bundle),
        **settings,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield Service(port, process, folder / "log")
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for member in [*family, process]:
            member.kill()
        process.wait()


def wait_until_ready(service: Service) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and service.process.poll() is None:
        try:
            if service.ask("GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the service is not ready:\n{service.log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("toy") / "bundle").folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service"), bundle) as started:
        wait_until_ready(started)
        yield started


def test_an_image_is_answered_as_by_the_predictor(service: Service, bundle: Path) -> None:
    from assay.models.bundle import Bundle

    predictor = Predictor(Bundle.load(bundle), threads=1)
    for data in unusual().values():
        status, body = service.ask("POST", "/v1/predict", data)
        assert (status, json.loads(body)["probabilities"]) == (200, predictor.classify(data).probabilities)


def test_bad_input_is_refused_and_the_next_image_answered(service: Service) -> None:
    for name, (data, status, code) in refused().items():
        told, body = service.ask("POST", "/v1/predict", data)
        assert (name, told, json.loads(body)["error"]["code"]) == (name, status, code)
    assert service.ask("POST", "/v1/predict", JPEG)[0] == 200


def test_health_is_told_by_bentoml_and_by_us(service: Service) -> None:
    assert [service.ask("GET", path)[0] for path in ("/livez", "/readyz", "/v1/live", "/v1/ready")] == [200] * 4


def test_the_paths_are_ours(service: Service) -> None:
    assert b"<!doctype html>" in service.ask("GET", "/")[1]
    assert json.loads(service.ask("GET", "/openapi.json")[1])["openapi"] == "3.1.0"
    assert json.loads(service.ask("GET", "/nowhere")[1])["error"]["code"] == "not_found"


def test_unknown_paths_make_no_series(service: Service) -> None:
    for number in range(5):
        service.ask("GET", f"/nowhere/{number}")
    assert b"nowhere" not in service.ask("GET", "/v1/metrics")[1]
    assert service.metric('assay_requests_total{code="404",route="other"}') >= 5


def test_a_body_that_does_not_say_its_length_is_counted(service: Service) -> None:
    pieces = (bytes(2**20) for _ in range(40))
    status, body = service.ask("POST", "/v1/predict", pieces)  # chunked
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")


def test_large_bodies_leave_no_memory_behind(service: Service) -> None:
    worker, held = service.worker(), []
    for _ in range(3):
        for _ in range(8):
            assert service.ask("POST", "/v1/predict", bytes(19_000_000))[0] == 415
        held.append(worker.memory_info().rss)
    assert held[-1] - held[0] < 30_000_000  # of 300 that were sent between


def test_pickles_and_broken_requests_never_give_a_5xx(service: Service) -> None:
    pickled = service.ask("POST", "/v1/predict", b"\x80\x04.", {"Content-Type": "application/vnd.bentoml+pickle"})
    assert pickled[0] == 415
    for line in (b"POST /v1/predict HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/9.9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as raw:
            raw.sendall(line)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(12) in (b"", b"HTTP/1.1 400")
    assert service.ask("POST", "/v1/predict", JPEG)[0] == 200


def test_a_client_that_leaves_does_no_harm(service: Service) -> None:
    for sent in (b"", JPEG[:100], JPEG):
        with socket.create_connection(("127.0.0.1", service.port)) as raw:
            raw.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + sent)
    assert service.ask("POST", "/v1/predict", JPEG)[0] == 200


def test_work_that_was_begun_is_finished_after_sigterm(tmp_path: Path, bundle: Path) -> None:
    large = encoded(Image.new("L", (7000, 7000), 99), "PNG")
    boundary = b"--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"
    form = b"".join(boundary + large + b"\r\n" for _ in range(8)) + b"--x--\r\n"
    answers: list[tuple[int, bytes]] = []
    with running(tmp_path, bundle, ASSAY_SERVE_TIMEOUT_S="200") as service:
        wait_until_ready(service)
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        client = threading.Thread(target=lambda: answers.append(service.ask("POST", "/v1/predict", form, headers)))
        client.start()
        while service.metric("assay_queue_running") < 1:
            assert client.is_alive()
        service.process.send_signal(signal.SIGTERM)
        client.join(PATIENCE_S)
        service.process.wait(PATIENCE_S)
        assert [status for status, _ in answers] == [200], service.log.read_text(errors="replace")[-3000:]
        assert len(json.loads(answers[0][1])["predictions"]) == 8
        with pytest.raises(OSError, match="refused"):
            service.ask("GET", "/readyz")


def test_a_request_that_came_before_sigterm_is_answered(tmp_path: Path, bundle: Path) -> None:
    with running(tmp_path, bundle) as service:
        wait_until_ready(service)
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as raw:
            raw.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + JPEG[:99])
            assert service.ask("GET", "/v1/ready")[0] == 200  # by now the one above is in
            service.process.send_signal(signal.SIGTERM)
            while listening(service):
                time.sleep(0.05)
            raw.sendall(JPEG[99:])
            assert raw.recv(12) == b"HTTP/1.1 200"
        service.process.wait(PATIENCE_S)


def listening(service: Service) -> bool:
    """Whether a further request would be taken."""
    try:
        return service.ask("GET", "/v1/ready")[0] == 200
    except OSError:
        return False


def test_a_bundle_that_cannot_be_served_ends_the_service_with_one_line(tmp_path: Path, bundle: Path) -> None:
    with running(tmp_path, bundle, ASSAY_SERVE_DIGEST="0" * 64) as service:
        assert service.process.wait(PATIENCE_S) == 2
        (line,) = service.log.read_text().splitlines()
        assert line.startswith(f"assay: {bundle}: is bundle ")


def test_a_setting_that_is_wrong_ends_the_service_with_one_line(tmp_path: Path, bundle: Path) -> None:
    with running(tmp_path, bundle, ASSAY_SERVE_QUEUE="long") as service:
        assert service.process.wait(PATIENCE_S) == 2
        assert service.log.read_text() == "assay: ASSAY_SERVE_QUEUE: must be a whole number, given: 'long'\n"
