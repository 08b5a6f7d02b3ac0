"""The API server of a cluster: requests with time limits, sent again where that helps, and every error in one line.

The official client reads the configuration (kubeconfig with its plugins, or a pod's own account) and holds the
connections. The requests are plain ones, since a release is plain documents: its manifests.
"""

import json
import logging
import os
import random
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.config import kube_config
from urllib3.exceptions import HTTPError, SSLError
from yaml import YAMLError

from assay.console import warn
from assay.release.targets import ReleaseError

CONNECT_S = 4.0
REQUEST_S = 15.0
PATIENCE_S = 20.0
"""How long a request is repeated while the cluster does not answer, or says that it cannot just now."""
FIRST_PATIENCE_S = 6.0
"""The same for the first request of all: a wrong address is told soon."""
LONGEST_PAUSE_S = 3.0
TOLD_AFTER_S = 5.0
CHANGE_S = 8.0
"""One attempt at a change that is guarded: what is done under a lock must be over before that can be lost."""
TOKEN_MARGIN = timedelta(minutes=1)
"""So long before its end a plugin's token is not used any more; some live for five minutes, the client's own margin."""

CONTEXT = "ASSAY_KUBE_CONTEXT"
JSON = "application/json"
APPLY = "application/apply-patch+yaml"

Document = dict[str, Any]
Query = Mapping[str, str]
Guard = Callable[[], None]
"""Raises when it is not ours to change anything."""

_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_PASSING = re.compile(r"etcd|leader|time(d )?out|unavailable|connection|webhook|try again", re.IGNORECASE)
_DENIED = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')


class ApiError(ReleaseError):
    """What the API server refuses."""

    def __init__(self, message: str, status: int, causes: tuple[Document, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP; 0 if there was no answer."""
        self.causes = causes
        """As Kubernetes' `Status` has them: `reason`, `field`, `message`."""


class Api:
    """One cluster, as one account; safe from several threads."""

    def __init__(self, configuration: Any) -> None:
        # The client's own repetitions would hide behind a time limit what is told and counted here.
        configuration.retries = False
        configuration.connection_pool_maxsize = 16
        self._client = kubernetes_client.ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self.server = str(configuration.host).rstrip("/")

    @classmethod
    def open(cls) -> "Api":
        """The cluster of `$KUBECONFIG` (context `$ASSAY_KUBE_CONTEXT`), or the one whose pod this is.

        Raises:
            ReleaseError: there is no configuration, or the cluster does not answer.
        """
        api = cls(_configuration())
        api.get("/version", patience_s=FIRST_PATIENCE_S)
        return api

    def get(self, path: str, query: Query | None = None, patience_s: float = PATIENCE_S) -> Document:
        """An object, or a list of them.

        Raises:
            ApiError: refused, or no answer for `patience_s` seconds. So do all the others.
        """
        return self._request("GET", path, query, None, JSON, patience_s)

    def find(self, path: str, patience_s: float = PATIENCE_S) -> Document | None:
        """An object; None if it is not there."""
        try:
            return self.get(path, patience_s=patience_s)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, query: Query | None = None, patience_s: float = PATIENCE_S) -> list[Document]:
        """The objects of a collection."""
        return list(self.get(path, query, patience_s).get("items") or ())

    def text(self, path: str) -> str:
        """What is no JSON, a log, as far as it can be had."""
        try:
            status, data = self.ask("GET", path, b"", JSON, REQUEST_S)
        except HTTPError:
            return ""
        return data.decode(errors="replace") if status < 300 else ""

    def create(self, collection: str, document: Document) -> Document:
        """Make an object; error 409 if there is one of its name already."""
        return self._request("POST", collection, None, document, JSON, PATIENCE_S)

    def replace(self, path: str, document: Document, patience_s: float = PATIENCE_S) -> Document:
        """Write an object if it still is as it was read; else error 409."""
        return self._request("PUT", path, None, document, JSON, patience_s)

    def apply(
        self, path: str, document: Document, manager: str,
        dry_run: bool = False, force: bool = False, guard: Guard | None = None,
    ) -> Document:  # fmt: skip
        """Server-side apply.

        Args:
            path: of the object.
            document: the fields that `manager` wants, and no others.
            manager: who owns these fields from then on.
            dry_run: check it in full and change nothing.
            force: take fields over that others own, which is error 409 otherwise.
            guard: asked before each attempt; what it raises ends the request.
        """
        query = {
            "fieldManager": manager,
            **({"dryRun": "All"} if dry_run else {}),
            **({"force": "true"} if force else {}),
        }
        return self._request("PATCH", path, query, document, APPLY, PATIENCE_S, guard)

    def delete(self, path: str, document: Document | None = None, guard: Guard | None = None) -> bool:
        """End an object; whether there was one.

        Args:
            path: of the object.
            document: DeleteOptions.
            guard: as for `apply`.
        """
        try:
            self._request("DELETE", path, None, document or {}, JSON, PATIENCE_S, guard)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def ask(self, method: str, path: str, body: bytes, kind: str, timeout_s: float) -> tuple[int, bytes]:
        """One request as it is, sent once; status and body of the answer, whatever it is.

        Raises:
            HTTPError: no answer.
        """
        headers = {"Content-Type": kind, "Accept": "*/*"}
        self._client.update_params_for_auth(headers, [], ["BearerToken"])
        answer = self._pool.request(
            method, self.server + path, body=body or None, headers=headers, retries=False,
            timeout=urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s),
        )  # fmt: skip
        return answer.status, answer.data

    def _request(
        self, method: str, path: str, query: Query | None, document: Document | None, kind: str, patience_s: float,
        guard: Guard | None = None,
    ) -> Document:  # fmt: skip
        body = b"" if document is None else json.dumps(document).encode()
        full = path + ("?" + urllib.parse.urlencode(query) if query else "")
        pauses, longest = _Pauses(patience_s), CHANGE_S if guard else REQUEST_S
        while True:
            if guard:
                guard()
            try:
                status, data = self.ask(method, full, body, kind, min(longest, max(patience_s, 1.0)))
            except HTTPError as error:
                problem, passing = self.silent(error), _UNTRUSTED not in str(error)
            else:
                if status < 300:
                    return parsed(data)
                problem = self.refused(method, path, status, data)
                passing = _may_pass(status, problem)
            if not passing or not pauses.again(str(problem)):
                raise problem

    def silent(self, error: HTTPError) -> ApiError:
        """No answer, in words."""
        hint = f"check KUBECONFIG, ${CONTEXT} and the network"
        if isinstance(error, SSLError) and _UNTRUSTED in str(error):
            return ApiError(f"cluster {self.server}: {_reason(error)}; {hint}", 0)
        return ApiError(f"cluster {self.server} does not answer ({_reason(error)}); {hint}", 0)

    def refused(self, method: str, path: str, status: int, data: bytes) -> ApiError:
        """What the API server says, in words."""
        found = parsed(data)
        message = " ".join(str(found.get("message") or data[:200].decode(errors="replace")).split())
        causes = tuple((found.get("details") or {}).get("causes") or ())
        denied = _DENIED.search(message)
        if status == 401:
            message = f"it does not know us (401); log in again, or choose another account with ${CONTEXT}"
        elif status == 403 and denied:
            message = (
                f"{denied['user']} may not {denied['verb']} {denied['resource']} ({path}); grant it, "
                f"serving/k8s/access has all that is needed, or choose another account with ${CONTEXT}"
            )
        else:
            message = f"cannot {_VERBS[method]} {path}: {message} ({status})"
        return ApiError(f"cluster {self.server}: {message}", status, causes)


class _Pauses:
    """Between the attempts of one request: longer and longer, and not for ever."""

    def __init__(self, patience_s: float) -> None:
        self.begun = time.monotonic()
        self.end = self.begun + patience_s
        self.pause = 0.2
        self.told = False

    def again(self, why: str) -> bool:
        """Wait, and say whether there is time for another attempt."""
        now = time.monotonic()
        if now + self.pause > self.end:
            return False
        if not self.told and now - self.begun > TOLD_AFTER_S:
            self.told = True
            warn("cluster", f"{why}; trying for another {self.end - now:.0f} s")
        # Spread, so that many clients do not come back at one moment.
        time.sleep(self.pause * random.uniform(0.7, 1.0))  # noqa: S311 (no secret)
        self.pause = min(2 * self.pause, LONGEST_PAUSE_S)
        return True


def _configuration() -> Any:
    found, context = kubernetes_client.Configuration(), os.environ.get(CONTEXT) or None
    path = os.environ.get("KUBECONFIG", "")
    kube_config.EXPIRY_SKEW_PREVENTION_DELAY = TOKEN_MARGIN
    try:
        if not path and not context and "KUBERNETES_SERVICE_HOST" in os.environ:
            kubernetes_config.load_incluster_config(client_configuration=found)
        else:
            with _plugins_heard():
                kubernetes_config.load_kube_config(path or _default(), context, found, persist_config=False)
    except (kubernetes_config.ConfigException, OSError, ValueError, TypeError, KeyError, YAMLError) as error:
        what = " ".join(str(error).split())
        if isinstance(error, TypeError | YAMLError):
            what = f"{path or _default()} is no kubeconfig"
        raise ReleaseError(f"no cluster: {what}; set KUBECONFIG to a file and, if need be, ${CONTEXT}") from None
    return found


class _Heard(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _plugins_heard() -> Iterator[None]:
    """The client only logs that a plugin for credentials failed, and goes on as nobody, whom the cluster refuses.

    Raises:
        ValueError: one failed.
    """
    heard = _Heard()
    logging.getLogger().addHandler(heard)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(heard)
    if heard.lines:
        raise ValueError(f"the kubeconfig's plugin for credentials failed ({heard.lines[0][:300]})")


def _default() -> str:
    return str(Path.home() / ".kube" / "config")


def parsed(data: bytes) -> Document:
    """The JSON object in an answer; an empty one if it is something else."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _may_pass(status: int, problem: ApiError) -> bool:
    """Whether the same request may succeed soon: the server is starting, electing a leader, or two wrote at a time."""
    if status == 409:
        return "please apply your changes to the latest version and try again" in str(problem)
    if status == 500:  # also what it says of what it does not understand
        return bool(_PASSING.search(str(problem)))
    return status in {429, 502, 503, 504}


def _reason(error: HTTPError) -> str:
    """What the libraries below say, without the names of their objects and addresses in memory."""
    text = str(error)
    if "EOF occurred" in text:
        return "connection closed"
    for words in (
        "Connection refused",
        "timed out",
        "Name or service not known",
        "Connection reset",
        "No route to host",
    ):
        if words.lower() in text.lower():
            return words.lower()
    return " ".join(re.sub(r"<[^>]*>:?|\(_ssl\.c:\d+\)", "", text).split())[:200] or type(error).__name__
