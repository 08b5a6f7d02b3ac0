"""MLflow's and ZenML's own pages over the local state, for as long as somebody looks at them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from assay.console import say
from assay.errors import AssayError
from assay.home import home, subfolder
from assay.processes import stop
from assay.registry import tracking_uri
from assay.service import check_free

HOST = "127.0.0.1"
STOP_S = 10.0


def serve_pages(port: int) -> None:
    """Start both servers on `port` and the next, say where they are, and stop them when interrupted.

    Raises:
        AssayError: a server ended by itself; the message names its log.
    """
    for one in (port, port + 1):
        check_free(one)
    servers = {
        "MLflow": (_mlflow(port), f"http://{HOST}:{port}"),
        "ZenML": (_zenml(port + 1), f"http://{HOST}:{port + 1}  (user `default`, no password)"),
    }
    started = {name: _start(command, _log(name)) for name, (command, _) in servers.items()}
    try:
        for name, (_, address) in servers.items():
            say(name, address)
        say("", "Ctrl-C stops both")
        _wait(started)
    except KeyboardInterrupt:
        say("", "stopped")
    finally:
        for process in started.values():
            stop(process, STOP_S)


def _mlflow(port: int) -> list[str]:
    artifacts = subfolder("mlflow", "artifacts").as_uri()
    store = ["--backend-store-uri", tracking_uri(), "--default-artifact-root", artifacts]
    return [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1", *store]


def _zenml(port: int) -> list[str]:
    zenml = str(Path(sys.executable).with_name("zenml"))
    return [zenml, "login", "--local", "--blocking", "--ip-address", HOST, "--port", str(port)]


def _log(name: str) -> Path:
    return subfolder("logs") / f"{name.lower()}.log"


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this process, which then ends the server and all its workers.
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ, cwd=home().parent
        )


def _wait(started: dict[str, subprocess.Popen[bytes]]) -> None:
    while True:
        for name, process in started.items():
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            raise AssayError(f"ui: {name}'s server ended with code {process.returncode}; its log: {_log(name)}")
