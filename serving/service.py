"""The service as BentoML runs it, from the root of the repository: `bentoml serve serving.service:AssayService`.

BentoML's first process imports this module only to read what the service is called; the workers make the instances.
Whatever is heavy, and prometheus_client, which must not be imported before BentoML has set its folder, is imported
where an instance is made.
"""

import asyncio
import atexit
import ctypes
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from assay.errors import EXIT_USER, AssayError
from serving.settings import Settings, SettingsError

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


LINGER_S = 1.0
"""Seconds after SIGTERM in which connections are still open, and new requests told that the service is going."""


class _Door:
    """What BentoML mounts when the class is made; the application stands behind it when the model is loaded."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None:
            raise RuntimeError("a request came before the model was loaded")
        await self.app(scope, receive, send)


_door = _Door()


@contextmanager
def _plainly(leave: Callable[[int], Any]) -> Iterator[None]:
    """Leave over what whoever started the service can mend, with one line."""
    try:
        yield
    except AssayError as error:
        print(f"assay: {error}", file=sys.stderr, flush=True)
        leave(error.exit_code)


_SUPERVISOR = "ASSAY_SERVICE_SUPERVISOR"
"""In the environment of the workers: the process that ends when one of them tells it to."""


def _await_the_worst() -> None:
    """In BentoML's first process: a worker that cannot load the model ends the service, with the code of an error.

    BentoML would start it anew every ten seconds, for good, with a port open that nobody answers at.
    """

    def end(*_: object) -> None:
        atexit.register(_leave)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, end)
    os.environ[_SUPERVISOR] = str(os.getpid())


def _leave() -> None:
    sys.stdout.flush()
    os._exit(EXIT_USER)


def _has_supervisor() -> bool:
    return os.environ.get(_SUPERVISOR) == str(os.getppid())


def _end_the_service(code: int) -> None:
    """In a worker: an exception would be told as three tracebacks of BentoML, Starlette and uvicorn."""
    if _has_supervisor():
        os.kill(os.getppid(), signal.SIGUSR1)
    os._exit(code)


def _end_with_the_supervisor() -> None:
    """In a worker, which is in a session of its own: if the process that watches over it is killed, it ends as well."""
    if _has_supervisor():
        _end_with_the_parent()


def _end_with_the_parent() -> None:
    """End when the process that started this one was killed; else it would answer for good at a port that nobody knows.

    Linux only.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_PR_SET_PDEATHSIG = 1


def _allow_connections() -> None:
    """Each takes a file, of which a login shell often allows 1,024; beyond that nobody could connect any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_FILES = 65_536


def _patience() -> int:
    """Seconds after which BentoML gives up: later than we do, who answer in JSON.

    But not much later: BentoML keeps a timer for each request for as long, also for one that is long answered.
    """
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError:  # told where the service starts
        settings = Settings()
    return math.ceil(settings.body_timeout_s + settings.timeout_s) + 10


@bentoml.service(
    name="assay",
    traffic={"timeout": _patience()},
    logging={"access": {"enabled": False}},
    # BentoML's own have every URL that anybody asks for as a label, for good. Ours are at /v1/metrics.
    metrics={"enabled": False},
    # Nobody collects the spans that BentoML would make of each request; making them costs a tenth of the service.
    tracing={"excluded_urls": [".*"]},
)
@bentoml.asgi_app(_door, path="/")
class AssayService:
    """A bundle behind HTTP; see `serving.app`."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Before any worker is started: what can be told without loading the model ends the service at once."""
        from assay.models.bundle import Bundle  # noqa: PLC0415

        with _plainly(sys.exit):
            settings = Settings.from_environment(os.environ)
            settings.check_model_is_named()
            if settings.bundle:
                Bundle.load(Path(settings.bundle), settings.digest or None)
        if os.environ.get("ASSAY_SERVICE_ENDS_WITH") == str(os.getppid()):
            _end_with_the_parent()
        _await_the_worst()

    def __init__(self) -> None:
        from serving import app, memory, model  # noqa: PLC0415
        from serving.metrics import Metrics  # noqa: PLC0415
        from serving.observation import Observer  # noqa: PLC0415

        _end_with_the_supervisor()
        _allow_connections()
        memory.return_at_once()
        with _plainly(_end_the_service):
            settings = Settings.from_environment(os.environ)
            predictor, info = model.load(settings)
            metrics = Metrics(info)
            self.observer = Observer.open(
                settings.observe_to, settings.observe_rate, settings.observe_images, info, metrics.observed
            )
            _door.app = application = app.create_app(
                predictor, settings, model=info, metrics=metrics, observer=self.observer
            )
        self.engine = application.state.engine

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def heed_the_end(self) -> None:
        """From SIGTERM on, no new work is taken; the server, which is told as well, waits for what was begun.

        It is told a little later: it closes connections that are idle, and a request may be on its way on each. Until
        then whoever comes is told to go elsewhere, by an answer with which the connection ends.
        """
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.engine.drain)
            if callable(before):
                loop.call_soon_threadsafe(loop.call_later, LINGER_S, before, number, frame)

        signal.signal(signal.SIGTERM, handle)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what was begun, and write what was observed."""
        self.engine.close()
        self.observer.close()

    async def __is_ready__(self) -> bool:
        """What BentoML's own /readyz says, which then agrees with /v1/ready."""
        return self.engine.refusal() is None
