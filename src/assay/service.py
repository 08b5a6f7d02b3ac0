"""The service as a process on this machine: started around a bundle, ready or told why not, and ended again."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from assay.console import say
from assay.errors import AssayError
from assay.home import subfolder
from assay.models.bundle import Bundle
from assay.processes import stop

HOST = "127.0.0.1"
ENDS_WITH = "ASSAY_SERVICE_ENDS_WITH"
"""Tells the service the process with which it ends, however that ends (`serving.service`)."""
READY_S = 120.0
STOP_S = 45.0
ROOT = Path(__file__).parents[2]
"""The checkout, where `serving/` is."""


class ServiceError(AssayError):
    """The service did not start, or ended by itself."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(bundle: Bundle, version: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The service of a bundle, ready; it ends with the block, however that ends.

    Args:
        bundle: what to serve.
        version: of the registry, for the answers.
        port: on 127.0.0.1.

    Raises:
        ServiceError: it cannot be started, or is not ready in time; the message says why.
    """
    log = subfolder("logs") / f"service-{port}.log"
    with tempfile.TemporaryDirectory(prefix="service-", dir=subfolder("tmp")) as state:
        process = start(bundle, version, port, Path(state), log, {ENDS_WITH: str(os.getpid())})
        try:
            wait_until_ready(process, port, log)
            yield process
        finally:
            stop(process, STOP_S)


def start(
    bundle: Bundle, version: str, port: int, state: Path, log: Path, marks: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the service of a bundle in a session of its own, which outlives this process; it is not ready yet.

    Args:
        bundle: what to serve.
        version: of the registry, for the answers.
        port: on 127.0.0.1.
        state: a folder of its own: BentoML empties its folder of metrics at each start, and leaves what it makes among
            the temporary files there if it is killed. No socket is among them.
        log: file that its output is written to.
        marks: environment variables to know it by.

    Raises:
        ServiceError: this is no checkout, or the port is taken.
    """
    if not (ROOT / "serving" / "service.py").is_file():
        raise ServiceError(f"{ROOT}: holds no serving/service.py; run this in a checkout of Assay")
    check_free(port)
    environment = {
        **os.environ,
        **(marks or {}),
        "ASSAY_SERVE_BUNDLE": str(bundle.folder),
        "ASSAY_SERVE_DIGEST": bundle.digest,
        "ASSAY_SERVE_VERSION": version,
        "ASSAY_SERVE_MODEL": "",
        "BENTOML_HOME": str(state),
        "TMPDIR": str(state),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:AssayService"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def serve_model(reference: str, port: int) -> None:
    """Serve a bundle's folder or a registered model until it is interrupted.

    Raises:
        AssayError: there is no such model, or the service does not start or ends by itself.
    """
    from assay.assessment import bundle_of, version_of

    bundle, version = bundle_of(reference), version_of(reference)
    with running(bundle, version, port) as process:
        say("serve", f"{address(port)}  {bundle.meta.name}@{version}  bundle {bundle.digest[:12]}")
        say("", f"a page for people at {address(port)}, the API's at {address(port)}/docs; Ctrl-C stops it")
        try:
            code = process.wait()
        except KeyboardInterrupt:
            say("serve", "stopped")
            return
    raise ServiceError(f"the service ended with code {code}; its log: {subfolder('logs')}")


def check_free(port: int) -> None:
    """Whether something could listen there.

    Raises:
        ServiceError: something does already.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        raise ServiceError(f"port {port} is in use on {HOST}; give another one") from None


def address(port: int) -> str:
    """Where the service is."""
    return f"http://{HOST}:{port}"


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for the service that `start` gave.

    Raises:
        ServiceError: it ended, or is not ready in time; the message says why.
    """
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceError(f"the service ended with code {process.returncode}: {_reason(log)}")
        try:
            with urllib.request.urlopen(f"{address(port)}/v1/ready", timeout=2) as answer:  # noqa: S310 (loopback)
                json.loads(answer.read())
                return
        except (urllib.error.URLError, OSError, ValueError):
            time.sleep(0.1)
    raise ServiceError(f"the service is not ready after {READY_S:.0f} s; its log: {log}")


def _reason(log: Path) -> str:
    """The line in which it says why, or where its log is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix("assay: ") for line in lines if line.startswith("assay: ")]
    return told[-1] if told else f"see {log}"
