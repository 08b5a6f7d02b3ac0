"""What the service counts and measures, for Prometheus. Every name begins with `assay_`.

Several workers: where PROMETHEUS_MULTIPROC_DIR names a folder (BentoML sets it), each worker keeps its numbers in files
of its own there, and the worker that is asked gives the numbers of all. Counters and histograms of a worker that ended
stay, so that no total ever falls; its gauges go.

Series are bounded by what the service is, never by what is sent to it: a route, label or code that is not known counts
as `other`, and a value that is no number is not measured at all.

prometheus_client settles at its first import whether there are several workers. So that nobody who imports this module
does it too early, it is imported when a `Metrics` is made.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

if TYPE_CHECKING:
    from prometheus_client import Histogram, Metric
    from prometheus_client.registry import Collector

PREFIX = "assay_"
OTHER = "other"
ROUTES = ("predict", "batch", "model", "page", "docs", "health", "metrics", OTHER)
STAGES = ("decode", "inference", "heatmap", OTHER)
OUTCOMES = ("written", "retried", "dropped", "failed", OTHER)
"""What becomes of an observed prediction: see `serving.observation`."""
MAX_LABELS = 500
"""Labels of a bundle that get series of their own; the rest count as `other`. Each takes two series a service."""

Stage = Literal["decode", "inference", "heatmap"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_CONTRAST = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_PIXELS = (1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7, 5e7)


class Model(Protocol):
    """What is served, as far as metrics and observations name it."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def labels(self) -> Sequence[str]: ...


class Metrics:
    """The numbers of one process: make one a process. Safe to call from several threads."""

    def __init__(self, info: Model) -> None:
        """Register every series, at nought, and name the model in `assay_model_info`."""
        from prometheus_client import CollectorRegistry, values  # noqa: PLC0415

        several = values.ValueClass is not values.MutexValue
        self._folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] if several else ""
        if several:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        self._registry = CollectorRegistry()
        self._count(info)
        self._measure()
        self._gauge(info)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """A request was answered with the status `code`, `seconds` after it came in."""
        route = route if route in self._seconds else OTHER
        self._requests.labels(route, str(code) if 100 <= code <= 599 else OTHER).inc()
        _observe(self._seconds[route], seconds)

    def stage(self, name: Stage, seconds: float) -> None:
        """A part of the work on one request took `seconds`."""
        _observe(self._stages.get(name, self._stages[OTHER]), seconds)

    def queue(self, waiting: int, running: int) -> None:
        """Requests of this worker that wait for their turn, and those that are worked on, now."""
        self._waiting.set(waiting)
        self._running.set(running)

    def ready(self, accepting: bool) -> None:
        """Whether this worker takes work; until this is called it does not."""
        self._ready.set(accepting)

    def predicted(self, label: str, confidence: float, abstained: bool) -> None:
        """An image was classified; `confidence` is the probability of its label."""
        counter = self._predictions.get((label, abstained)) or self._predictions[OTHER, abstained]
        counter.inc()
        _observe(self._confidence, confidence)

    def pictured(self, brightness: float, contrast: float, width: int, height: int) -> None:
        """An image was decoded: luminance's mean and standard deviation, 0 to 1, and the original's size in pixels."""
        _observe(self._brightness, brightness)
        _observe(self._contrast, contrast)
        _observe(self._pixels, width * height)

    def observed(self, outcome: str, records: int = 1) -> None:
        """So many predictions were written to the observation log, or not: one of `OUTCOMES`."""
        self._observations.get(outcome, self._observations[OTHER]).inc(records)

    def render(self) -> tuple[bytes, str]:
        """The numbers of all workers in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest  # noqa: PLC0415

        collect = self._of_all_workers if self._folder else self._registry.collect
        shown = CollectorRegistry()
        shown.register(cast("Collector", _Own(collect)))
        return generate_latest(shown), CONTENT_TYPE_LATEST

    def _of_all_workers(self) -> "Iterable[Metric]":
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        _forget_ended(Path(self._folder))
        collector: Callable[..., Any] = MultiProcessCollector  # is not annotated
        found: Iterable[Metric] = collector(None, self._folder).collect()
        return found

    def _count(self, info: Model) -> None:
        from prometheus_client import Counter  # noqa: PLC0415

        self._requests = Counter(
            "assay_requests_total", "Requests answered", ("route", "code"), registry=self._registry
        )
        predictions = Counter(
            "assay_predictions_total", "Images classified", ("label", "abstained"), registry=self._registry
        )
        observations = Counter(
            "assay_observations_total", "Predictions for the log", ("outcome",), registry=self._registry
        )
        self._predictions = {
            (label, abstained): predictions.labels(label, str(abstained).lower())
            for label in (*info.labels[:MAX_LABELS], OTHER)
            for abstained in (False, True)
        }
        self._observations = {outcome: observations.labels(outcome) for outcome in OUTCOMES}

    def _measure(self) -> None:
        seconds = self._histogram("request_seconds", "From a request to its answer", _SECONDS, "route")
        stages = self._histogram("stage_seconds", "Parts of the work on a request", _SECONDS, "stage")
        self._seconds = {route: seconds.labels(route) for route in ROUTES}
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._confidence = self._histogram("confidence", "Probability of the label that was given", _CONFIDENCE)
        self._brightness = self._histogram("input_brightness", "Mean luminance, 0 black to 1 white", _BRIGHTNESS)
        self._contrast = self._histogram("input_contrast", "Standard deviation of the luminance", _CONTRAST)
        self._pixels = self._histogram("input_pixels", "Width times height of the image sent", _PIXELS)

    def _histogram(self, name: str, about: str, buckets: Sequence[float], *labels: str) -> "Histogram":
        from prometheus_client import Histogram  # noqa: PLC0415

        return Histogram(f"{PREFIX}{name}", about, labels, registry=self._registry, buckets=buckets)

    def _gauge(self, info: Model) -> None:
        from prometheus_client import Gauge  # noqa: PLC0415

        def gauge(name: str, about: str, mode: Literal["livesum", "livemin", "livemax"], *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}{name}", about, labels, registry=self._registry, multiprocess_mode=mode)

        self._waiting = gauge("queue_waiting", "Requests that wait for their turn", "livesum")
        self._running = gauge("queue_running", "Requests that are worked on", "livesum")
        self._ready = gauge("ready", "1 while every worker takes work", "livemin")
        model = gauge("model_info", "The model that is served; always 1", "livemax", "name", "version", "digest")
        model.labels(info.name, info.version, info.digest).set(1)
        # A worker that had this process id before may have left its numbers in the file.
        for mine in (self._waiting, self._running, self._ready):
            mine.set(0)


class _Own:
    """Of what is collected, the families of ours: BentoML keeps its own, with URLs as labels, in the same folder."""

    def __init__(self, collect: "Callable[[], Iterable[Metric]]") -> None:
        self._collect = collect

    def collect(self) -> "Iterator[Metric]":
        for family in self._collect():
            if family.name.startswith(PREFIX):
                # When a series began: as many series again, of which nothing is asked.
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family


def _observe(histogram: "Histogram", value: float) -> None:
    if math.isfinite(value):  # one NaN would make the sum NaN for good
        histogram.observe(value)


def _forget_ended(folder: Path) -> None:
    """Remove the gauges of workers that are no more, also of those that were killed and could not do it themselves."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    forget: Callable[[int, str], None] = mark_process_dead  # is not annotated
    for process in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        if process.isdigit() and not _alive(int(process)):
            with suppress(FileNotFoundError):  # another worker was quicker
                forget(int(process), str(folder))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
