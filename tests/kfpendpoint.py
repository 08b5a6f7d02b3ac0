"""A Kubeflow Pipelines API that takes what it is given and keeps it, for tests of what is sent.

It stands in for the Kubernetes API as well, as far as a run of the stack `kubernetes` begins there.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

API = "/pipeline/apis/v2beta1"


@dataclass
class Endpoint:
    """What was asked of it, oldest first, as (method, path without query, body)."""

    port: int = 0
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    state: str = "SUCCEEDED"
    """Of every run that nobody carries out."""
    carry_out: Callable[[str, dict[str, Any]], None] | None = None
    """Told of each run that is begun, with its id and what was sent; it keeps `states`."""
    states: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """The task that a run failed at, of those that were carried out."""
    refuse: int = 0
    """A status with which runs are refused; 0: none."""
    mute: bool = False
    """Whether connections are closed without an answer."""
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.port}/pipeline"

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What was posted to a path below the API."""
        return [body for method, asked, body in self.calls if method == "POST" and asked == path]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name, _, identity = path.strip("/").partition("/")
        if name == "test":  # how a client in another process sets what comes next
            vars(self).update(body)
            return 200, {}
        if name in ("api", "apis"):
            return (201, body) if method == "POST" else (404, {"code": 404, "reason": "NotFound"})
        if name == "recurringruns":
            return self._recurring(method, identity, body)
        if method == "POST" and name == "runs":
            if self.refuse:
                return self.refuse, {"error": "quota exceeded", "message": "quota exceeded"}
            return 200, self._begin(body)
        found = {
            "healthz": {"multi_user": False},
            "experiments": {"experiment_id": "experiment-1", "display_name": "training"},
            "runs": self._run(identity),
        }.get(name)
        if name == "experiments" and method == "GET":
            found = {}
        return (404, {"error": f"no {path}"}) if found is None else (200, found)

    def _run(self, identity: str) -> dict[str, Any]:
        tasks = [{"display_name": task, "state": "FAILED"} for task in filter(None, [self.failed.get(identity)])]
        state = self.states.get(identity, self.state)
        return {"run_id": identity, "state": state, "run_details": {"task_details": tasks}}

    def _begin(self, body: dict[str, Any]) -> dict[str, Any]:
        identity = f"run-{len(self.states) + 1}"
        if self.carry_out:
            self.states[identity] = "PENDING"
            self.carry_out(identity, body)
        return {"run_id": identity, "display_name": body.get("display_name"), "state": "PENDING"}

    def _recurring(self, method: str, identity: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            identity = f"recurring-{len(self.recurring) + 1}"
            self.recurring[identity] = {**body, "recurring_run_id": identity, "status": "ENABLED"}
            return 200, self.recurring[identity]
        if method == "DELETE":
            self.recurring.pop(identity, None)
            return 200, {}
        return 200, {"recurringRuns": list(self.recurring.values()), "total_size": len(self.recurring)}


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """A running one, on a free port of 127.0.0.1."""
    served = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path = urlsplit(self.path).path.removeprefix(API)
            served.calls.append((self.command, path, body))
            if served.mute and path != "/test":
                self.close_connection = True
                return
            status, answer = served.answer(self.command, path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
