"""From the bytes of one image to what is said about it: done in a worker thread, told as JSON."""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from assay.models.abstention import answered, in_set
from assay.models.bundle import BundleMeta
from assay.models.predictor import Predictor
from assay.preprocess import Decoded
from serving import intake
from serving.heatmap import affordable, heatmap, overlay
from serving.memory import Room
from serving.observation import brightness_and_contrast
from serving.settings import Settings

T = TypeVar("T")


class Recorder(Protocol):
    """Where it is counted what was seen and said."""

    def stage(self, name: Literal["decode", "inference", "heatmap"], seconds: float) -> None:
        """How long a part of the work took."""
        ...

    def predicted(self, label: str, confidence: float, abstained: bool) -> None:
        """What was said."""
        ...

    def pictured(self, brightness: float, contrast: float, width: int, height: int) -> None:
        """What the image was like."""
        ...


class Observer(Protocol):
    """Keeps predictions for later; it neither waits nor raises."""

    def observe(
        self,
        data: bytes,
        pixels: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
        label: str,
        abstained: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        """One prediction: the file, its pixels [s, s, 3], probabilities [k], what was made of them, and its size."""
        ...


@dataclass(frozen=True)
class Answer:
    """What is said about one image."""

    label: str
    probabilities: NDArray[np.float32]
    """[k], in the order of the bundle's labels."""
    abstained: bool
    milliseconds: Mapping[str, float]
    overlay: bytes | None
    """The image under its heat map, as PNG, if it was asked for."""


class Answering:
    """Answers with one predictor; safe to use from several threads."""

    def __init__(
        self, predictor: Predictor, settings: Settings, recorder: Recorder, observer: Observer, room: Room
    ) -> None:
        self.predictor, self.settings, self.room = predictor, settings, room
        self._recorder, self._observer = recorder, observer

    def answer(self, data: bytes, explain_s: float | None, check: Callable[[], None], since: float) -> Answer:
        """Decode an image, classify it, and explain the answer if that is asked for.

        Args:
            data: the file.
            explain_s: seconds that a heat map may take; of a slow model it is the coarser. None: there is none.
            check: called between the steps; what it raises ends the work.
            since: when the request came in, by `time.perf_counter`.

        Raises:
            serving.problems.Problem: the image cannot be read.
        """
        check()
        reading = partial(intake.read, data, self._meta.geometry, self.settings, self.room, check)
        decoded, decoding = self._timed("decode", reading)
        check()
        rows, inference = self._timed("inference", lambda: self.predictor.probabilities(decoded.pixels[np.newaxis]))
        row, place = rows[0], int(rows[0].argmax())
        label, abstained = self._meta.labels[place], self._abstained(rows)
        times = {"decode": decoding, "inference": inference}
        picture = None
        if explain_s is not None:
            grid = affordable(inference, explain_s)
            picture, times["explain"] = self._explained(decoded.pixels, place, grid, check)
        self._record(decoded, label, float(row[place]), abstained)
        self._observer.observe(data, decoded.pixels, row, label, abstained, (decoded.width, decoded.height))
        times["total"] = time.perf_counter() - since
        rounded = {name: round(seconds * 1000, 3) for name, seconds in times.items()}
        return Answer(label, row, abstained, rounded, picture)

    @property
    def threshold(self) -> float | None:
        """The probability from which a label is in the conformal set; None: the model always answers."""
        return self._meta.abstention.threshold if self._meta.abstention else None

    @property
    def _meta(self) -> BundleMeta:
        return self.predictor.bundle.meta

    def _abstained(self, rows: NDArray[np.float32]) -> bool:
        return self.threshold is not None and not bool(answered(in_set(rows, self.threshold))[0])

    def _explained(
        self, pixels: NDArray[np.uint8], place: int, grid: int, check: Callable[[], None]
    ) -> tuple[bytes, float]:
        """The picture under its heat map, and the seconds it took."""

        def predict(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
            check()
            return self.predictor.probabilities(pictures)

        return self._timed("heatmap", lambda: overlay(pixels, heatmap(predict, pixels, place, grid=grid)))

    def _record(self, decoded: Decoded, label: str, confidence: float, abstained: bool) -> None:
        brightness, contrast = brightness_and_contrast(decoded.image)
        self._recorder.pictured(brightness, contrast, decoded.width, decoded.height)
        self._recorder.predicted(label, confidence, abstained)

    def _timed(self, name: Literal["decode", "inference", "heatmap"], step: Callable[[], T]) -> tuple[T, float]:
        start = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - start
        self._recorder.stage(name, seconds)
        return result, seconds


def as_json(
    answer: Answer, labels: tuple[str, ...], top_k: int, threshold: float | None, model: Mapping[str, str]
) -> dict[str, Any]:
    """An answer as clients get it, with the `top_k` highest probabilities, highest first."""
    order = np.argsort(-answer.probabilities, kind="stable")[:top_k].tolist()
    told: dict[str, Any] = {
        "label": answer.label,
        "probabilities": {labels[place]: float(answer.probabilities[place]) for place in order},
        "abstained": answer.abstained,
        "threshold": threshold,
        "model": dict(model),
        "milliseconds": dict(answer.milliseconds),
    }
    if answer.overlay is not None:
        told["heatmap"] = f"data:image/png;base64,{base64.b64encode(answer.overlay).decode()}"
    return told
