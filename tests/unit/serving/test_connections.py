"""Requests as a server hands them on, piece by piece: what a client library would never send."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from assay.models.predictor import Predictor
from serving.app import CLIENT_GONE, create_app
from serving.model import ModelInfo
from serving.settings import Settings

from badinput import refused, unusual
from pictures import encoded, picture

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Record

JPEG = encoded(picture(2))
Make = Callable[..., Starlette]
Header = tuple[bytes, bytes]


@pytest.fixture
def make(loaded: tuple[Predictor, ModelInfo], record: "Record") -> Make:
    def made(**values: Any) -> Starlette:
        return create_app(loaded[0], Settings(**values), model=loaded[1], metrics=record, observer=record)

    return made


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def pieces(*bodies: bytes) -> AsyncIterator[bytes]:
    for body in bodies:
        await asyncio.sleep(0)
        yield body


async def ask(
    app: Starlette,
    body: AsyncIterator[bytes],
    headers: list[Header] | None = None,
    method: str = "POST",
    path: str = "/v1/predict",
    query: bytes = b"",
    stays: bool = True,
) -> tuple[int, bytes]:
    """Status and body of the answer. With `stays` false the client is gone when its body has arrived."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        async for piece in body:
            return {"type": "http.request", "body": piece, "more_body": True}
        if not receive_ended:
            receive_ended.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        if stays:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    receive_ended: list[bool] = []
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers or []}
    await app({**scope, "http_version": "1.1", "root_path": "", "scheme": "http"}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def run(app: Starlette, scene: Callable[[], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        return await scene()

    try:
        return asyncio.run(all_of_it())
    finally:
        app.state.engine.close()


@pytest.mark.parametrize("announced", [[], [(b"content-length", b"10")], [(b"content-length", b"-1")]])
def test_a_body_without_an_end_is_cut_off(make: Make, announced: list[Header]) -> None:
    app = make(max_body_bytes=1000, max_held_bytes=10_000)
    taken = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(100)

    assert run(app, lambda: ask(app, endless(), announced))[0] == 413
    assert len(taken) == 11


def test_a_body_that_is_announced_too_large_is_never_read(make: Make) -> None:
    app = make(max_body_bytes=1000)
    assert run(app, lambda: ask(app, never(), [(b"content-length", b"1001")]))[0] == 413


@pytest.mark.parametrize("announced", [b"x", b"", b"9" * 5000, b"\xb2"])
def test_a_length_that_makes_no_sense_is_no_defect(make: Make, announced: bytes) -> None:
    app = make()
    assert run(app, lambda: ask(app, pieces(JPEG), [(b"content-length", announced)]))[0] in (200, 413)


def test_an_image_may_come_in_pieces(make: Make) -> None:
    app = make()
    assert run(app, lambda: ask(app, pieces(*(JPEG[i : i + 7] for i in range(0, len(JPEG), 7)))))[0] == 200


def test_a_body_that_stalls_is_given_up(make: Make) -> None:
    app = make(body_timeout_s=0.05)
    status, body = run(app, lambda: ask(app, never()))
    assert (status, b"slow_body" in body) == (408, True)


def test_many_uploads_at_once_are_bounded(make: Make) -> None:
    app = make(max_body_bytes=1000, max_held_bytes=2500)

    async def scene() -> list[int]:
        event = asyncio.Event()

        async def upload() -> AsyncIterator[bytes]:
            yield bytes(900)
            await event.wait()

        tasks = [asyncio.create_task(ask(app, upload())) for _ in range(5)]
        done, waiting = await asyncio.wait(tasks, timeout=0.2)
        event.set()
        return [task.result()[0] for task in [*done, *waiting] if await task]

    assert sorted(run(app, scene)) == [415, 415, 503, 503, 503]


def test_a_client_that_leaves_is_counted_and_its_work_skipped(
    make: Make, record: "Record", monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(concurrency=1)
    release, begun = asyncio.Event(), []
    original = Predictor.probabilities

    def slow(self: Predictor, pixels: Any) -> Any:
        begun.append(1)
        asyncio.run_coroutine_threadsafe(release.wait(), loop[0]).result(20)
        return original(self, pixels)

    async def scene() -> list[int]:
        loop.append(asyncio.get_running_loop())
        monkeypatch.setattr(Predictor, "probabilities", slow)
        first = asyncio.create_task(ask(app, pieces(JPEG)))
        while not begun:
            await asyncio.sleep(0.01)
        left = await ask(app, pieces(JPEG), stays=False)
        release.set()
        return [(await first)[0], left[0]]

    loop: list[asyncio.AbstractEventLoop] = []
    assert run(app, scene) == [200, CLIENT_GONE]
    assert len(begun) == 1
    assert record.of("answered") == [["predict", CLIENT_GONE], ["predict", 200]]


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_defect(make: Make, record: "Record") -> None:
    app = make()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": []}
    run(app, lambda: app(scope, receive, send))
    assert record.of("answered") == [["predict", CLIENT_GONE]]


def test_a_full_queue_and_a_timeout_are_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make(concurrency=1, queue=1, timeout_s=0.3)
    release = asyncio.Event()

    def stuck(*_: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(release.wait(), loop[0]).result(20)

    async def scene() -> list[tuple[int, bytes]]:
        loop.append(asyncio.get_running_loop())
        monkeypatch.setattr(Predictor, "probabilities", stuck)
        answers = await asyncio.gather(*(ask(app, pieces(JPEG)) for _ in range(3)))
        monkeypatch.undo()
        release.set()
        await asyncio.sleep(0.05)
        return [*answers, await ask(app, pieces(JPEG))]

    loop: list[asyncio.AbstractEventLoop] = []
    answers = run(app, scene)
    assert sorted(status for status, _ in answers) == [200, 503, 504, 504]
    assert b'"code":"busy"' in next(body for status, body in answers if status == 503)


# Nothing that is sent is answered by a 5xx, and whatever it was, the next image is answered.

SEEDS = [*(data for data, _, _ in refused().values() if len(data) < 10_000), *unusual().values()]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Any bytes; or a file, cut, with some of its bytes changed, and with others before and behind."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)
    return draw(st.one_of(st.binary(max_size=200), st.just(cut), st.just(cut + draw(st.binary(max_size=20)))))


def forms(body: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
    return head + body + b"\r\n--x--\r\n"


TYPES = st.one_of(
    st.sampled_from([b"", b"image/png", b"multipart/form-data; boundary=x", b"multipart/form-data", b"text/plain"]),
    st.binary(max_size=40),
    st.binary(max_size=20).map(lambda extra: b"multipart/form-data; boundary=x; charset=" + extra),
)
NAMES = st.sampled_from([b"accept", b"content-length", b"transfer-encoding", b"host", b"x", b"content-encoding"])
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=30)), max_size=4)
QUERIES = st.one_of(st.sampled_from([b"", b"", b"top_k=1", b"explain=true"]), st.binary(max_size=30))
METHODS = st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "DELETE", "", "É"])
PATHS = st.one_of(st.sampled_from(["/v1/predict"] * 3 + ["/", "/v1/model", "/page/app.js"]), st.text(max_size=20))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies(), st.booleans(), TYPES, HEADERS, QUERIES, METHODS, PATHS)
def test_nothing_that_is_sent_breaks_the_service(
    make: Make,
    body: bytes,
    form: bool,
    content_type: bytes,
    headers: list[Header],
    query: bytes,
    method: str,
    path: str,
) -> None:
    app = make(concurrency=1)
    sent = [(b"content-type", content_type), *headers] if content_type else headers

    async def scene() -> tuple[int, int]:
        answer = await ask(app, pieces(forms(body) if form else body), sent, method, path, query)
        return answer[0], (await ask(app, pieces(JPEG)))[0]

    status, after = run(app, scene)
    assert status < 500
    assert after == 200
