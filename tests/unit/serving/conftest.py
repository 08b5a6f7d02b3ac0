"""The service in this process, around the toy bundle."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from assay.models.abstention import Abstention
from assay.models.predictor import Predictor
from serving import model
from serving.app import create_app
from serving.settings import Settings

from toybundle import toy_bundle

THRESHOLD = 0.6


class Record:
    """Metrics and observer in one: what was told to them, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def of(self, what: str) -> list[tuple[Any, ...]]:
        return [values for name, *values in self.told if name == what]  # type: ignore[misc]

    def answered(self, route: str, code: int, seconds: float) -> None:
        assert seconds >= 0
        self.told.append(("answered", route, code))

    def stage(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.told.append(("stage", name))

    def queue(self, waiting: int, running: int) -> None:
        self.told.append(("queue", waiting, running))

    def ready(self, accepting: bool) -> None:
        self.told.append(("ready", accepting))

    def predicted(self, label: str, confidence: float, abstained: bool) -> None:
        self.told.append(("predicted", label, confidence, abstained))

    def pictured(self, brightness: float, contrast: float, width: int, height: int) -> None:
        self.told.append(("pictured", brightness, contrast, width, height))

    def render(self) -> tuple[bytes, str]:
        return b"assay_queue_waiting 0\n", "text/plain; version=1.0.0; charset=utf-8"

    def observe(
        self,
        data: bytes,
        pixels: np.ndarray,
        probabilities: np.ndarray,
        label: str,
        abstained: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.told.append(("observe", data, pixels, probabilities, label, abstained, size))


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def loaded(tmp_path: Path) -> tuple[Predictor, model.ModelInfo]:
    """The toy bundle, as a service loads it; it abstains now and then."""
    fitted = Abstention(coverage=0.9, threshold=THRESHOLD)
    toy_bundle(tmp_path / "bundle", card=b"# Colours\n", abstention=fitted)
    return model.load(Settings(bundle=str(tmp_path / "bundle"), runtime="onnxruntime"))


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(loaded: tuple[Predictor, model.ModelInfo], record: Record) -> Iterator[Serve]:
    """A function that starts the service with settings of one's own, and gives a client of it."""
    predictor, info = loaded
    with ExitStack() as stack:

        def start(**settings: Any) -> TestClient:
            app = create_app(predictor, Settings(**settings), model=info, metrics=record, observer=record)
            return stack.enter_context(TestClient(app))

        yield start


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve()
