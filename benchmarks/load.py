"""Load on an HTTP service, from a process of its own: so many clients, each with one request at a time, for so long.

The last line of output is JSON: what the clients saw. A client that is told `draining`, whose connection is refused, or
closed while it waits for nothing, leaves; `lost` are requests that were sent and got no answer.
"""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import uvloop

from harness import arguments

HOST = "127.0.0.1"
BOUNDARY = "a2f1"


def request(path: str, field: str, data: bytes) -> bytes:
    """The bytes of a POST: an image as the body, or as a file of a form if the field has a name."""
    kind, body = "application/octet-stream", data
    if field:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        head = f'Content-Disposition: form-data; name="{field}"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        body = f"--{BOUNDARY}\r\n{head}".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Tally:
    """What happened to all requests."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.codes: Counter[int] = Counter()
        self.lost = 0

    def figures(self, elapsed: float) -> dict[str, float]:
        """Milliseconds, answers a second, and how many there were of what."""
        times = np.array(self.seconds or [np.nan]) * 1000
        quantiles = {f"p{q}_ms": float(np.quantile(times, q / 100)) for q in (50, 95, 99)}
        failed = sum(count for code, count in self.codes.items() if code >= 500 and code != 503)
        counts = {"ok": self.codes[200], "busy": self.codes[503], "failed": failed, "lost": self.lost}
        return {**quantiles, "rate": self.codes[200] / elapsed, **counts}


async def client(port: int, requests: list[bytes], end: float, tally: Tally) -> None:
    """Send one request after the other until the time is up or the service goes away."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return
    at = 0
    while time.perf_counter() < end:
        since, at = time.perf_counter(), (at + 1) % len(requests)
        writer.write(requests[at])
        try:
            code, leaves = await answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            tally.lost += 1
            return
        tally.codes[code] += 1
        tally.seconds.append(time.perf_counter() - since)
        if leaves:
            return
    writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status of an answer, which is read to its end, and whether the connection ends with it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12]), b"connection: close" in head


async def load(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """All clients at once."""
    tally, since = Tally(), time.perf_counter()
    step = max(1, len(requests) // clients)
    turned = [requests[n * step % len(requests) :] + requests[: n * step % len(requests)] for n in range(clients)]
    await asyncio.gather(*(client(port, own, since + seconds, tally) for own in turned))
    return tally.figures(time.perf_counter() - since)


def main() -> None:
    """Print what was seen."""
    options = arguments(__doc__, port=3000, path="/v1/predict", field="", images="", clients=8, seconds=5.0)
    files = sorted(Path(options.images).rglob("*.jpg"))
    requests = [request(options.path, options.field, file.read_bytes()) for file in files]
    print(json.dumps(uvloop.run(load(options.port, requests, options.clients, options.seconds))))


if __name__ == "__main__":
    main()
