"""The whole service as one ASGI application, under whatever server runs it."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.models.predictor import Predictor
from serving import intake, memory, openapi, page, problems
from serving.answers import Answer, Answering, Observer, Recorder, as_json
from serving.engine import Engine, Job, QueueMetrics
from serving.model import ModelInfo
from serving.problems import Problem
from serving.settings import Settings

LIMITS = (
    "max_body_bytes",
    "max_pixels",
    "decode_bytes",
    "max_frames",
    "max_images",
    "queue",
    "timeout_s",
    "body_timeout_s",
)
"""Settings that clients are told."""

SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

EXPLAIN_SHARE = 0.5
"""Of the time that a request has left, shared by its images: what their heat maps are planned to take."""

LOOK_AFTER_S = 0.05
"""A client that waits as long for its answer may have left. To look costs more than most answers have time for."""

CLIENT_GONE = 499
"""Counted as the status of a request whose client did not wait for the answer; nobody receives it."""

BATCH = "assay.batch"
"""Key of the ASGI scope of a request with several images."""

T = TypeVar("T")

log = logging.getLogger("assay.serving")


class Metrics(QueueMetrics, Recorder, Protocol):
    """Where everything is counted; see `serving.metrics`."""

    def answered(self, route: str, code: int, seconds: float) -> None:
        """A request was answered."""
        ...

    def render(self) -> tuple[bytes, str]:
        """All numbers as text, and its content type."""
        ...


def create_app(
    predictor: Predictor, settings: Settings, *, model: ModelInfo, metrics: Metrics, observer: Observer
) -> Starlette:
    """The service around a predictor that has shown itself to work; `app.state.engine` is to be closed at the end.

    Args:
        predictor: see `serving.model.load`.
        settings: the limits.
        model: what clients are told of the model.
        metrics: see `serving.metrics`.
        observer: see `serving.observation`.

    Raises:
        SettingsError: there is too little memory.
    """
    settings = memory.fitted(settings, memory.free())
    engine = Engine(settings.workers, settings.queue, settings.timeout_s, metrics)
    answering = Answering(predictor, settings, metrics, observer, memory.Room(settings.decode_bytes))
    api = Api(engine, answering, settings, model, metrics)
    ours = api.routes()
    routes = [route for _, route in ours] + page.routes()
    labels = {id(route): label for label, route in ours} | {id(route): "page" for route in routes[len(ours) :]}
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Outermost, metrics=metrics, labels=labels)],
        exception_handlers={Problem: _tell_problem, HTTPException: _tell_http, ClientDisconnect: _tell_nobody},
        lifespan=partial(_lifespan, engine),
    )
    # A redirect would repeat the Host header that the client made up.
    app.router.redirect_slashes = False
    app.state.engine = engine
    return app


@dataclass(frozen=True)
class Options:
    """What the query of a prediction asks for."""

    top_k: int
    explain: bool

    @classmethod
    def of(cls, query: Mapping[str, str], settings: Settings) -> "Options":
        """Read the query.

        Raises:
            Problem: a parameter is unknown, or its value is wrong.
        """
        if strangers := set(query) - {"top_k", "explain"}:
            raise Problem(problems.BAD_QUERY, f"{min(strangers)[:60]!r} is no parameter; top_k and explain are")
        top_k, explain = query.get("top_k", str(settings.top_k)), query.get("explain", "false").lower()
        if not re.fullmatch("[1-9][0-9]{0,8}", top_k):
            raise Problem(problems.BAD_QUERY, f"top_k must be a whole number from 1, given: {top_k[:60]!r}")
        if explain not in ("true", "false", "1", "0"):
            raise Problem(problems.BAD_QUERY, f"explain must be true or false, given: {explain[:60]!r}")
        return cls(int(top_k), explain in ("true", "1"))


class Api:
    """The endpoints under `/v1`, and what describes them."""

    def __init__(
        self, engine: Engine, answering: Answering, settings: Settings, model: ModelInfo, metrics: Metrics
    ) -> None:
        self.engine, self.answering, self.settings = engine, answering, settings
        self.model, self.metrics = model, metrics
        self.held = intake.Held(settings.max_held_bytes)
        self.usual = Options.of({}, settings)
        self.document = openapi.document(settings, model.labels)

    def routes(self) -> list[tuple[str, Route]]:
        """The label under which each is counted, and the route."""
        return [
            ("predict", Route("/v1/predict", self.predict, methods=["POST"])),
            ("model", Route("/v1/model", self.describe)),
            ("health", Route("/v1/live", self.live)),
            ("health", Route("/v1/ready", self.ready)),
            ("metrics", Route("/v1/metrics", self.numbers)),
            ("docs", Route("/openapi.json", self.specification)),
            ("docs", Route("/docs", self.docs)),
        ]

    async def predict(self, request: Request) -> Response:
        since = time.perf_counter()
        options = Options.of(request.query_params, self.settings) if request.scope["query_string"] else self.usual
        if (refusal := self.engine.refusal()) is not None:  # before a body is read that nobody would look at
            raise refusal
        with self.held.request() as take:
            files = await intake.images(request, self.settings, take)
            request.scope[BATCH] = len(files) > 1
            work = partial(self._answers, files, options.explain, since)
            answers = await _while_connected(request, self.engine.begin(work))
        picture = answers[0].overlay if len(answers) == 1 else None
        if picture is not None and "image/png" in request.headers.get("accept", ""):
            return Response(picture, media_type="image/png", headers={**SAFE, "Vary": "Accept"})
        told = [self._told(answer, options.top_k) for answer in answers]
        return JSONResponse(told[0] if len(told) == 1 else {"predictions": told}, headers={**SAFE, "Vary": "Accept"})

    async def describe(self, _: Request) -> Response:
        limits = {name: getattr(self.settings, name) for name in LIMITS}
        return JSONResponse(self.model.described(limits), headers=SAFE)

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True}, headers=SAFE)

    async def ready(self, _: Request) -> Response:
        if (refusal := self.engine.refusal()) is not None:
            raise refusal
        return JSONResponse({"ready": True}, headers=SAFE)

    async def numbers(self, _: Request) -> Response:
        # Of several workers it reads files, and takes its time over it.
        body, media_type = await asyncio.to_thread(self.metrics.render)
        return Response(body, headers={**SAFE, "Content-Type": media_type})

    async def specification(self, _: Request) -> Response:
        return JSONResponse(self.document, headers=SAFE)

    async def docs(self, _: Request) -> Response:
        return HTMLResponse(openapi.page(self.document), headers={**SAFE, **openapi.PAGE_HEADERS})

    def _answers(self, files: list[bytes], explain: bool, since: float, job: Job[list[Answer]]) -> list[Answer]:
        answers = []
        for number, data in enumerate(files, 1):
            try:
                explain_s = EXPLAIN_SHARE * job.left_s() / (len(files) - number + 1) if explain else None
                answers.append(self.answering.answer(data, explain_s, job.check, since))
            except Problem as problem:
                raise problem.of_image(number) if len(files) > 1 else problem from None
        return answers

    def _told(self, answer: Answer, top_k: int) -> dict[str, Any]:
        return as_json(answer, self.model.labels, top_k, self.answering.threshold, self.model.identity)


class Outermost:
    """Counts every answer, and makes one where a defect left none: logged once, told without details."""

    def __init__(self, app: ASGIApp, metrics: Metrics, labels: Mapping[int, str]) -> None:
        self.app, self.metrics, self.labels = app, metrics, labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        since, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            log.exception("defect in %s %s", scope["method"], self._label(scope))
            if not status:
                await problems.response(Problem(problems.DEFECT, "a defect of the service"))(scope, receive, watched)
        finally:
            self.metrics.answered(self._label(scope), status or CLIENT_GONE, time.perf_counter() - since)

    def _label(self, scope: Scope) -> str:
        return "batch" if scope.get(BATCH) else self.labels.get(id(scope.get("route")), "other")


async def _while_connected(request: Request, work: "asyncio.Future[T]") -> T:
    """What `work` gives, unless the client goes away first.

    Raises:
        ClientDisconnect: it did; `work` is cancelled.
    """
    loop, watch = asyncio.get_running_loop(), _Watch(request, work)
    timer = loop.call_later(LOOK_AFTER_S, watch.begin)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.gone:
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        watch.end()


class _Watch:
    """Cancels work when its client goes away."""

    def __init__(self, request: Request, work: "asyncio.Future[Any]") -> None:
        self.request, self.work, self.gone = request, work, False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.gone = self.work.cancel()


@asynccontextmanager
async def _lifespan(engine: Engine, _: Starlette) -> AsyncIterator[None]:
    """Where a server runs the application by itself; one that only mounts it closes the engine itself."""
    yield
    await asyncio.to_thread(engine.close)


async def _tell_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problems.response(error)


async def _tell_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        message = f"only {allowed.get('Allow', 'other methods')} here"
        return problems.response(Problem(problems.METHOD_NOT_ALLOWED, message), allowed)
    return problems.response(Problem(problems.NOT_FOUND, "nothing is here; /docs says what there is"))


async def _tell_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
