"""The lock of an environment: a Lease, as the controllers of Kubernetes use it to elect a leader.

Whether a holder is alive is told by its renewals, seen with our own clock: clocks of two machines need not agree.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from assay.console import say
from assay.release.targets import Busy, ReleaseError
from serving.cluster.api import CHANGE_S, Api, ApiError, Document
from serving.cluster.objects import collection

API = "coordination.k8s.io/v1"
DURATION_S = 15
RENEW_S = 5.0
POLL_S = 0.5
MARGIN_S = CHANGE_S
"""So long before the end of its time a lock that could not be renewed is not relied upon."""


class Lease:
    """A lock that we hold, as long as `check` does not raise."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self.holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._api, self._name = api, name
        self._collection = collection(API, "Lease", namespace)
        self._found: Document = {}
        self._renewed = 0.0
        self._rival = ""
        self._ended = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self) -> None:
        """Take the lock; one whose holder was killed is taken over after `DURATION_S`.

        Raises:
            Busy: its holder is at work.
            ReleaseError: the cluster refuses, or does not answer.
        """
        seen: tuple[str, str] | None = None
        begun = time.monotonic()
        while True:
            found = self._api.find(self._path)
            holder, renewed = _holder(found), _spec(found).get("renewTime", "")
            if not holder or (seen and time.monotonic() - begun > _patience(found)):
                if self._take(found):
                    break
                seen = None
                continue
            if seen is None:
                seen, begun = (holder, renewed), time.monotonic()
                say("lock", f"held by {_words(found)}; waiting to see whether it is still at work")
            elif seen != (holder, renewed):
                raise Busy(f"another promotion or rollback is at work: {_words(found)}; wait until it has ended")
            time.sleep(POLL_S)
        self._thread.start()

    def check(self) -> None:
        """Whether the lock is still ours; to be asked before anything is changed.

        Raises:
            ReleaseError: somebody else has it, or that cannot be told.
        """
        with self._turn:
            if not self._rival and time.monotonic() - self._renewed > DURATION_S - MARGIN_S:
                self._renew(patience_s=MARGIN_S)
        self.heed()

    def heed(self) -> None:
        """Like `check`, where nothing will be changed: a cluster that does not answer may take its time.

        Raises:
            ReleaseError: somebody else has the lock.
        """
        if self._rival:
            raise ReleaseError(f"the lock was lost to {self._rival} while the cluster did not answer; stopped here")

    def release(self) -> None:
        """Give the lock back; if that fails, it ends by itself."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._rival:
            return
        try:
            self._write({"holderIdentity": ""}, patience_s=2.0)
        except ReleaseError:
            return

    @property
    def _path(self) -> str:
        return f"{self._collection}/{self._name}"

    def _take(self, found: Document | None) -> bool:
        now = _now()
        spec = {
            "holderIdentity": self.holder, "leaseDurationSeconds": DURATION_S, "acquireTime": now, "renewTime": now,
            "leaseTransitions": int(_spec(found).get("leaseTransitions") or 0) + (found is not None),
        }  # fmt: skip
        begun = time.monotonic()
        try:
            if found is None:
                metadata = {"name": self._name, "labels": {"app.kubernetes.io/part-of": "assay"}}
                document = {"apiVersion": API, "kind": "Lease", "metadata": metadata, "spec": spec}
                self._found = self._api.create(self._collection, document)
            else:
                self._found = self._api.replace(self._path, {**found, "spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            # Another one was faster; or it was us, and the answer was lost.
            self._found = self._api.find(self._path) or {}
            if _holder(self._found) != self.holder:
                return False
        self._renewed = begun
        return True

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            with self._turn:
                try:
                    self._renew(patience_s=3.0)
                except ReleaseError:  # tried again at the next turn, and by `check` before anything is changed
                    continue
                if self._rival:
                    return

    def _renew(self, patience_s: float) -> None:
        begun = time.monotonic()
        try:
            self._write({"renewTime": _now()}, patience_s)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            found = self._api.find(self._path, patience_s)
            if _holder(found) != self.holder:
                self._rival = _words(found) if _holder(found) else "somebody who deleted it"
                return
            # Our own write, whose answer was lost.
            self._found = found or {}
            self._write({"renewTime": _now()}, patience_s)
        self._renewed = begun

    def _write(self, changes: Document, patience_s: float) -> None:
        document = {**self._found, "spec": {**_spec(self._found), **changes}}
        self._found = self._api.replace(self._path, document, patience_s)


@contextmanager
def held(api: Api, namespace: str, name: str) -> Iterator[Lease]:
    """The lock, for as long as the block runs.

    Raises:
        Busy: somebody else is at work.
    """
    lease = Lease(api, namespace, name)
    lease.acquire()
    try:
        yield lease
    finally:
        lease.release()


def _spec(found: Document | None) -> Document:
    return dict((found or {}).get("spec") or {})


def _holder(found: Document | None) -> str:
    return str(_spec(found).get("holderIdentity") or "")


def _patience(found: Document | None) -> float:
    return float(_spec(found).get("leaseDurationSeconds") or DURATION_S)


def _words(found: Document | None) -> str:
    host, _, rest = _holder(found).partition("/")
    process = rest.split("/", maxsplit=1)[0]
    since = str(_spec(found).get("acquireTime", "?")).split(".")[0].replace("T", " ")
    return f"process {process} on {host}, since {since} UTC" if process else f"{host}, since {since} UTC"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
