"""Something that answers like the service: a process, a pod, or all of them behind one address."""

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from assay.errors import AssayError

IMAGE = "application/octet-stream"
MAX_ANSWER_BYTES = 16 * 2**20


class Unreachable(AssayError):
    """Nothing answers there, or what answers is not the service."""


@dataclass(frozen=True)
class Answer:
    """Of one request."""

    status: int
    body: bytes

    def content(self) -> dict[str, Any]:
        """The JSON object in it.

        Raises:
            Unreachable: it is none: something else than the service answered.
        """
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Unreachable(f"answered {self.status} with something else than JSON: {self.body[:80]!r}")
        return found


class Endpoint(Protocol):
    """One address of the service."""

    @property
    def name(self) -> str:
        """For messages: an address, or `pod assay-demo-5d9…`."""

    def send(self, method: str, path: str, body: bytes = b"", timeout_s: float = 30.0) -> Answer:
        """Ask for a path that begins with a slash, with an image as the body of a POST; safe from several threads.

        Raises:
            Unreachable: nothing answers in time.
        """


@dataclass(frozen=True)
class Http:
    """The service at an address that is reached directly."""

    url: str
    """`http://host:port`."""

    @property
    def name(self) -> str:
        return self.url

    def send(self, method: str, path: str, body: bytes = b"", timeout_s: float = 30.0) -> Answer:
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        with _plainly(self.name), closing(kind(parts.netloc, timeout=timeout_s)) as connection:
            connection.request(method, parts.path.rstrip("/") + path, body, {"Content-Type": IMAGE} if body else {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(MAX_ANSWER_BYTES))


@contextmanager
def _plainly(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{name} does not answer: {error or type(error).__name__}") from None
