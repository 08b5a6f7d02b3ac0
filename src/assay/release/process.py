"""The target that needs no cluster: an environment is a process on this machine.

It is replaced, not rolled: for the seconds between the old process and the new one nothing answers. What is there is
told by the process itself, from the environment variables that it was started with, so that a promoter that was killed
at any point leaves nothing that the next one does not find.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from assay.errors import BundleError
from assay.gate.ledger import Environment, Release
from assay.home import home, subfolder
from assay.models.bundle import Bundle
from assay.processes import stop_all
from assay.release.endpoint import Endpoint, Http, Unreachable
from assay.release.golden import Golden
from assay.release.targets import Busy, ReleaseError, State
from assay.service import STOP_S, ServiceError, address, free_port, running, start, wait_until_ready

PORTS = {"staging": 3001, "production": 3002}
"""By default; `$ASSAY_PORT_STAGING` and `$ASSAY_PORT_PRODUCTION` give others."""

MARK, LABEL = "ASSAY_ENVIRONMENT_FOLDER", "ASSAY_RELEASE_LABEL"


@dataclass(frozen=True)
class Process:
    """An environment of one model on this machine; see `assay.release.targets.Target`."""

    model: str
    environment: Environment

    @property
    def folder(self) -> Path:
        """Its state: log, golden images, lock."""
        return subfolder("environments", f"{self.model}-{self.environment}")

    @property
    def port(self) -> int:
        """Where it serves, on 127.0.0.1.

        Raises:
            ReleaseError: the environment variable holds no port.
        """
        name = f"ASSAY_PORT_{self.environment.upper()}"
        given = os.environ.get(name, str(PORTS[self.environment]))
        if not given.isdecimal() or not 0 < int(given) < 65536:
            raise ReleaseError(f"{name}={given!r} is no port; give a number from 1 to 65535")
        return int(given)

    def draft(self, version: str, bundle: Bundle, golden: Golden, image: str) -> Release:
        if image:
            raise ReleaseError("a process on this machine takes no image; give --target kubernetes with --image")
        return Release(
            model=self.model, environment=self.environment, target="process", version=version, image="",
            bundle_digest=bundle.digest, golden_digest=golden.digest, manifests="",
        )  # fmt: skip

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with (self.folder / "lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it back if we are killed
            except BlockingIOError:
                lock.seek(0)
                raise Busy(f"{self.environment} of {self.model}: {lock.read()} is at work; wait for its end") from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}, since {datetime.now(UTC):%H:%M:%S} UTC,")
            lock.flush()
            yield

    @contextmanager
    def trial(self, release: Release) -> Iterator[Endpoint]:
        port = free_port()
        try:
            with running(self._bundle(release), release.version, port):
                yield Http(address(port))
        except ServiceError as error:
            raise ReleaseError(f"{release}: {error}") from None

    def deploy(self, release: Release, golden: Golden) -> None:
        self._golden_file(release).write_bytes(golden.encode())
        present = self.state()
        if present and present.healthy and present.label == release.label:
            return
        bundle = self._bundle(release)
        self.remove()
        self._keep_only(release)
        marks = {MARK: str(self.folder), LABEL: release.label}
        state, log = self.folder / f"state-{release.label}", self.folder / "service.log"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        try:
            process = start(bundle, release.version, self.port, state, log, marks)
            wait_until_ready(process, self.port, log)
            process.returncode = 0  # it outlives us, and that is no mistake to warn of
        except ServiceError as error:
            raise ReleaseError(f"{release}: {error}") from None

    def golden(self, release: Release) -> Golden:
        try:
            return Golden.decode(self._golden_file(release).read_bytes(), release.golden_digest)
        except (OSError, BundleError):
            return Golden.of(self._bundle(release))

    def endpoints(self, release: Release) -> Sequence[Endpoint]:
        return [Http(address(self.port))]

    def state(self) -> State | None:
        leader = next(iter(self._leaders()), None)
        if leader is None:
            return None
        marks = leader.environ()
        try:
            ready = Http(address(self.port)).send("GET", "/v1/ready", timeout_s=5).status == 200
            problems = () if ready else (f"{address(self.port)} says that it is not ready",)
        except Unreachable as error:
            ready, problems = False, (str(error),)
        since = datetime.fromtimestamp(leader.create_time(), UTC).isoformat(timespec="seconds")
        return State(
            label=marks.get(LABEL, ""), version=marks.get("ASSAY_SERVE_VERSION", ""),
            bundle_digest=marks.get("ASSAY_SERVE_DIGEST", ""), wanted=1, ready=int(ready), restarts=0,
            problems=problems, since=since,
        )  # fmt: skip

    def difference(self, release: Release) -> list[str]:
        present = self.state()
        if present and present.label == release.label:
            return [] if present.healthy else [f"process on port {self.port}: is not ready → started again"]
        there = f"version {present.version} ({present.bundle_digest[:12]})" if present else "nothing"
        return [f"process on port {self.port}: {there} → version {release.version} ({release.bundle_digest[:12]})"]

    def drift(self, release: Release) -> list[str]:
        return []  # a process is all there is

    def remove(self) -> None:
        stop_all(self._leaders(), STOP_S)

    def _leaders(self) -> list[psutil.Process]:
        """The process that serves, found by its mark; after a promoter that was killed perhaps more than one."""
        found = {process.pid: process for process in psutil.process_iter() if _marked(process, str(self.folder))}
        return [process for process in found.values() if process.ppid() not in found]

    def _bundle(self, release: Release) -> Bundle:
        folder = home() / "bundles" / release.bundle_digest
        try:
            return Bundle.load(folder, release.bundle_digest)
        except BundleError as error:
            raise ReleaseError(f"{release}: its bundle cannot be had any more: {error}") from None

    def _golden_file(self, release: Release) -> Path:
        return self.folder / f"golden-{release.bundle_digest[:12]}.json"

    def _keep_only(self, release: Release) -> None:
        for state in self.folder.glob("state-*"):
            if state.name != f"state-{release.label}":
                shutil.rmtree(state, ignore_errors=True)


def _marked(process: psutil.Process, folder: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == folder)
    except psutil.Error:  # ended meanwhile, or somebody else's
        return False
