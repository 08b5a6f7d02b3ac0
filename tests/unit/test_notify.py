"""What is told to a webhook, by a real server on this machine; and that nothing of it ever fails who tells."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from assay import notify
from assay.notify import News

NEWS = News("verdict", "demo", "3", "PROMOTE", reason="better", link="https://example.org/run?a=1&b=<2>")


class Webhook(ThreadingHTTPServer):
    """Answers with `status`, or never while `hanging`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[dict[str, str]] = []
        self.status, self.hanging, self.done = 200, False, Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/secret-path"


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        # A byte of an answer now and then: a time limit of each wait alone is never reached.
        while self.server.hanging and not self.server.done.wait(0.05):
            self.wfile.write(b"H")
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with Webhook() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv(notify.URL, server.url)
        yield server
        server.done.set()
        server.shutdown()


def test_a_verdict_names_use_case_version_verdict_and_link(webhook: Webhook) -> None:
    assert notify.notify(NEWS)
    [body] = webhook.bodies
    assert body["text"] == "⚖️ verdict demo@3: PROMOTE\nbetter\n<https://example.org/run?a=1&amp;b=%3C2%3E>"
    assert {name: body[name] for name in ("what", "use_case", "version", "verdict")} == {
        "what": "verdict", "use_case": "demo", "version": "3", "verdict": "PROMOTE",
    }  # fmt: skip


def test_the_link_is_that_of_the_run(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/assay")
    monkeypatch.setenv("GITHUB_RUN_ID", "17")
    notify.notify(News("promotion", "demo", "3", environment="production"))
    assert webhook.bodies[0]["text"].splitlines() == [
        "🚀 promotion demo@3 → production", "<https://github.com/me/assay/actions/runs/17>",
    ]  # fmt: skip


def test_nothing_in_a_reason_mentions_links_or_breaks_out(webhook: Webhook) -> None:
    notify.notify(News("failure", "demo", reason="<!channel> <https://evil|click>\n*x*\x00" + "y" * 1000))
    text = webhook.bodies[0]["text"]
    assert "<" not in text
    assert len(text.splitlines()) == 2
    assert len(text) < 400


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_webhook_that_refuses_is_no_failure(
    webhook: Webhook, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook.status = status
    assert not notify.notify(NEWS)
    told = capsys.readouterr().err
    assert f"answered {status}" in told
    assert "secret-path" not in told


def test_a_webhook_that_hangs_is_not_waited_for(webhook: Webhook, capsys: pytest.CaptureFixture[str]) -> None:
    webhook.hanging = True
    assert not notify.notify(NEWS, patience_s=0.3)
    assert "no answer in time" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/x", "file:///etc/passwd", "nonsense", "http://[", "https://"])
def test_a_webhook_that_is_not_there_is_no_failure(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv(notify.URL, url.format(port=probe.getsockname()[1]))
        assert not notify.notify(NEWS)
    assert "nobody was told" in capsys.readouterr().err


def test_without_a_webhook_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(notify.URL, raising=False)
    assert not notify.notify(NEWS)
    assert capsys.readouterr().err == ""


def test_it_runs_where_nothing_is_installed(webhook: Webhook) -> None:
    script = Path(notify.__file__)
    command = [sys.executable, "-IS", str(script), "failure", "--use-case", "demo", "--reason", "no images"]
    subprocess.run(command, check=True, timeout=60, env={notify.URL: webhook.url})
    assert webhook.bodies[0]["text"] == "🔥 failure demo\nno images"
