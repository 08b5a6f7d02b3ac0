"""The service as BentoML runs it, from the root of the repository: `bentoml serve serving.service:AssayService`.

BentoML's first process imports this module only to read what the service is called; the workers make the instances.
Whatever is heavy, and prometheus_client, which must not be imported before BentoML has set its folder, is imported
where an instance is made.
"""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from assay.errors import AssayError
from serving.settings import Settings, SettingsError

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


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

    def __init__(self) -> None:
        from serving import app, model  # noqa: PLC0415
        from serving.metrics import Metrics  # noqa: PLC0415
        from serving.observation import Observer  # noqa: PLC0415

        with _plainly(os._exit):  # an exception would be told as three tracebacks of BentoML, Starlette and uvicorn
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
        """From SIGTERM on, no new work is taken; the server, which is told as well, waits for what was begun."""
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: FrameType | None) -> Any:
            loop.call_soon_threadsafe(self.engine.drain)
            return before(number, frame) if callable(before) else None

        signal.signal(signal.SIGTERM, handle)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what was begun, and write what was observed."""
        self.engine.close()
        self.observer.close()

    async def __is_ready__(self) -> bool:
        """What BentoML's own /readyz says, which then agrees with /v1/ready."""
        return self.engine.refusal() is None
