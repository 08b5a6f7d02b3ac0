"""GitHub's REST API and a chat's webhook on this machine, and what a pull request may leave behind."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from assay.github.api import BOT

S = TypeVar("S", bound=ThreadingHTTPServer)
REPOSITORY = "me/assay"
GOOD: dict[str, Any] = {
    "format": 1,
    "use_case": "demo",
    "commit": "a" * 40,
    "bundle_digest": "b" * 64,
    "decision": "HOLD",
    "rules": [{"rule": "floor.accuracy", "subject": "accuracy", "passed": False}],
    "metrics": [{"name": "accuracy", "value": 0.975, "low": 0.95, "high": 0.99}],
    "labels": ["crack", "intact"],
    "confusion": [[40, 2], [0, 48]],
    "data": {"digest": "d" * 64, "quarantined": 1, "counts": {"crack": {"train": 100, "validation": 42, "test": 40}}},
}
"""A report as `assay github collect` writes it."""
INJECTIONS = [
    "</code></td><script>alert(1)</script>",
    "|\n| injected | row |",
    "\n\n# Approved by the maintainers\n",
    "@everyone #1 me/assay#1 https://evil.example www.evil.example a@b.example",
    "![x](https://evil.example/pixel.png)",
    "`code` ``` ~~~",
    "<!-- assay:report -->",
    "\u202egnp.exe\u200b\x1b[31m\x00",
    "::set-output name=verdict::PROMOTE",
    "$(touch INJECTED)",
    "${{ secrets.GITHUB_TOKEN }}",
]


def changed(**values: Any) -> dict[str, Any]:
    """The good report, but for some values."""
    return {**GOOD, **values}


def said(number: int, login: str, body: str) -> dict[str, Any]:
    """A comment, as it is listed."""
    return {"id": number, "user": {"login": login}, "body": body}


class GitHub(ThreadingHTTPServer):
    """`answers` by path: a number stands for a status, and what is not there for 404. Comments are kept."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.tokens: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def written(self) -> list[tuple[str, str, Any]]:
        return [row for row in self.asked if row[0] != "GET"]

    def keep(self, method: str, path: str, content: Any) -> None:
        """A comment that is posted is listed from now on, as the bot's; one that is replaced has its new text."""
        listed = self.answers.get(path)
        if method == "POST" and isinstance(listed, list):
            number = 900 + len(listed)
            listed.append(said(number, BOT, content["body"]))
            self.answers[f"/issues/comments/{number}"] = listed[-1]
        elif method == "PATCH" and isinstance(listed, dict):
            listed |= content


class _Handler(BaseHTTPRequestHandler):
    server: GitHub

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(f"/repos/{REPOSITORY}")
        self.server.asked.append((self.command, path, content if content is not None else parse_qs(parts.query)))
        self.server.tokens.add(self.headers["Authorization"])
        self.server.keep(self.command, path, content)
        answer = self.server.answers.get(path, 404)
        if callable(answer):
            answer = answer(parse_qs(parts.query))
        self.send_response(answer if isinstance(answer, int) else 200)
        self.end_headers()
        self.wfile.write(b"{}" if isinstance(answer, int) else json.dumps(answer).encode())

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 (their names are the library's)

    def log_message(self, *_: object) -> None:
        pass


class News(ThreadingHTTPServer):
    """A webhook, and what it was told."""

    daemon_threads = True

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Listener)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def last(self) -> tuple[str, str, str, str]:
        """What, of whom, which version, and the verdict."""
        return _short(self.told[-1])

    def all(self) -> list[tuple[str, str, str, str]]:
        """The same of everything since it was asked for last."""
        news, self.told = self.told, []
        return [_short(told) for told in news]


def _short(told: dict[str, str]) -> tuple[str, str, str, str]:
    return told["what"], told["use_case"], told.get("version", ""), told.get("verdict", "")


class _Listener(BaseHTTPRequestHandler):
    server: News

    def do_POST(self) -> None:
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def playing(server: S) -> Iterator[S]:
    """A server that answers until the end of the block."""
    with server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
