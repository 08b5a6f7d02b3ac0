"""A request over HTTP and the whole of its answer, whatever its status."""

import http.client
from typing import Any

PATIENCE_S = 60


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, host: str = "127.0.0.1"
) -> tuple[int, bytes]:
    """Status and body of the answer, over a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
