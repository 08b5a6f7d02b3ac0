"""What Prometheus is told: right numbers, from one process or several, and no more series than there can be."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from serving.metrics import MAX_LABELS, OTHER, ROUTES, Metrics, Stage

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Served:
    name: str = "colours"
    version: str = "3"
    digest: str = "d" * 64
    labels: tuple[str, ...] = ("blue", "red")


Numbers = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def numbers(text: str) -> Numbers:
    """Name and labels of each sample, to its value."""
    from prometheus_client.parser import text_string_to_metric_families

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "a sample stands twice"
    return found


def shown(metrics: Metrics) -> Numbers:
    return numbers(metrics.render()[0].decode())


def of(found: Numbers, name: str, /, **labels: str) -> float:
    return found[f"assay_{name}", frozenset(labels.items())]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Served())


def test_a_request_is_counted_and_timed(metrics: Metrics) -> None:
    metrics.answered("predict", 200, 0.02)
    metrics.answered("predict", 415, 0.002)
    found = shown(metrics)
    assert of(found, "requests_total", route="predict", code="200") == 1
    assert of(found, "requests_total", route="predict", code="415") == 1
    assert of(found, "request_seconds_count", route="predict") == 2
    assert of(found, "request_seconds_sum", route="predict") == pytest.approx(0.022)
    assert of(found, "request_seconds_bucket", route="predict", le="0.005") == 1


def test_stages_are_timed_apart(metrics: Metrics) -> None:
    metrics.stage("decode", 0.001)
    metrics.stage("inference", 0.01)
    found = shown(metrics)
    assert of(found, "stage_seconds_sum", stage="decode") == pytest.approx(0.001)
    assert of(found, "stage_seconds_sum", stage="inference") == pytest.approx(0.01)
    assert of(found, "stage_seconds_count", stage="heatmap") == 0


def test_the_queue_is_what_it_was_last(metrics: Metrics) -> None:
    metrics.queue(3, 2)
    metrics.queue(1, 2)
    assert (of(shown(metrics), "queue_waiting"), of(shown(metrics), "queue_running")) == (1, 2)


def test_not_ready_until_said(metrics: Metrics) -> None:
    assert of(shown(metrics), "ready") == 0
    metrics.ready(True)
    assert of(shown(metrics), "ready") == 1
    metrics.ready(False)
    assert of(shown(metrics), "ready") == 0


def test_predictions_by_label_and_abstention(metrics: Metrics) -> None:
    metrics.predicted("red", 0.97, False)
    metrics.predicted("red", 0.5, True)
    found = shown(metrics)
    assert of(found, "predictions_total", label="red", abstained="false") == 1
    assert of(found, "predictions_total", label="red", abstained="true") == 1
    assert of(found, "confidence_sum") == pytest.approx(1.47)


def test_the_input_is_measured(metrics: Metrics) -> None:
    metrics.pictured(0.4, 0.1, 4000, 3000)
    found = shown(metrics)
    assert of(found, "input_brightness_sum") == pytest.approx(0.4)
    assert of(found, "input_contrast_sum") == pytest.approx(0.1)
    assert of(found, "input_pixels_sum") == 12_000_000


def test_observations_by_outcome(metrics: Metrics) -> None:
    metrics.observed("written", 40)
    metrics.observed("dropped")
    found = shown(metrics)
    assert of(found, "observations_total", outcome="written") == 40
    assert of(found, "observations_total", outcome="dropped") == 1


def test_the_model_is_named(metrics: Metrics) -> None:
    assert of(shown(metrics), "model_info", name="colours", version="3", digest="d" * 64) == 1


def test_what_can_happen_stands_there_at_nought(metrics: Metrics) -> None:
    found = shown(metrics)
    assert of(found, "predictions_total", label="blue", abstained="true") == 0
    assert {dict(labels)["route"] for name, labels in found if name == "assay_request_seconds_count"} == set(ROUTES)


def test_strangers_make_no_series(metrics: Metrics) -> None:
    for route, label, stage in [("a", "b", "c"), ("/v1/../x", 'red"} 1\n', "décode"), ("", "", "")]:
        metrics.answered(route, 200, 0.1)
        metrics.predicted(label, 0.5, False)
        metrics.stage(cast("Stage", stage), 0.1)
        metrics.observed(stage)
    found = shown(metrics)
    assert of(found, "requests_total", route=OTHER, code="200") == 3
    assert of(found, "predictions_total", label=OTHER, abstained="false") == 3
    assert of(found, "stage_seconds_count", stage=OTHER) == 3
    assert of(found, "observations_total", outcome=OTHER) == 3


@pytest.mark.parametrize("code", [0, -1, 99, 600, 10**9])
def test_a_code_that_is_none_is_other(metrics: Metrics, code: int) -> None:
    metrics.answered("page", code, 0.1)
    assert of(shown(metrics), "requests_total", route="page", code=OTHER) == 1


def test_labels_beyond_the_bound_are_other() -> None:
    labels = tuple(f"class {number}" for number in range(MAX_LABELS + 50))
    metrics = Metrics(Served(labels=labels))
    for label in labels:
        metrics.predicted(label, 0.9, False)
    found = shown(metrics)
    assert len([name for name, _ in found if name == "assay_predictions_total"]) == 2 * (MAX_LABELS + 1)
    assert of(found, "predictions_total", label=OTHER, abstained="false") == 50


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_measured(metrics: Metrics, value: float) -> None:
    metrics.answered("predict", 200, value)
    metrics.predicted("red", value, False)
    metrics.pictured(value, value, 1, 1)
    found = shown(metrics)
    assert of(found, "request_seconds_sum", route="predict") == of(found, "confidence_count") == 0
    assert of(found, "input_brightness_sum") == of(found, "input_contrast_sum") == 0
    assert of(found, "requests_total", route="predict", code="200") == 1


def test_threads_lose_no_count(metrics: Metrics) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: metrics.answered("predict", 200, 0.01), range(2000)))
    assert of(shown(metrics), "requests_total", route="predict", code="200") == 2000


def test_two_in_one_process_do_not_meet() -> None:
    first, second = Metrics(Served()), Metrics(Served(version="4"))
    first.predicted("red", 0.9, False)
    assert of(shown(second), "confidence_count") == 0


def test_labels_are_escaped() -> None:
    metrics = Metrics(Served(labels=('a "quoted"\n\\label',), version='"}'))
    metrics.predicted('a "quoted"\n\\label', 0.9, False)
    assert of(shown(metrics), "predictions_total", label='a "quoted"\n\\label', abstained="false") == 1


def test_the_content_type_is_that_of_prometheus(metrics: Metrics) -> None:
    assert metrics.render()[1].startswith("text/plain; version=")


def test_nothing_says_when_a_series_began(metrics: Metrics) -> None:
    assert not [name for name, _ in shown(metrics) if name.endswith("_created")]


def test_the_module_leaves_the_first_import_to_bentoml() -> None:
    code = "import sys, serving.metrics, serving.observation; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


WORKER = """
import os, sys
from types import SimpleNamespace
from serving.metrics import Metrics
import prometheus_client

number, digest = int(sys.argv[1]), sys.argv[2]
metrics = Metrics(SimpleNamespace(name="colours", version="3", digest=digest, labels=("blue", "red")))
foreign = prometheus_client.Counter("bentoml_requests", "With URLs", ("endpoint",))
foreign.labels(f"/random/{number}").inc()
metrics.answered("predict", 200, 0.02)
metrics.predicted("red", 0.9, True)
metrics.queue(number, 1)
metrics.ready(True)
print("made", flush=True)
for command in sys.stdin:
    if command == "render\\n":
        print(metrics.render()[0].decode() + "# END", flush=True)
    else:
        metrics.ready(False)
        print("made", flush=True)
"""


class Worker:
    """A process with metrics: one request, one abstention, `number` requests waiting, ready."""

    def __init__(self, folder: Path, number: int, digest: str = "d") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number), digest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        )
        assert self._line() == "made\n"

    def shown(self) -> Numbers:
        self._say("render")
        return numbers("".join(iter(self._line, "# END\n")))

    def unready(self) -> None:
        self._say("unready")
        assert self._line() == "made\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            pytest.fail("the worker ended")
        return line


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        for number in (1, 2, 4):
            started.append(Worker(tmp_path / "made by the first", number))
        yield started
    finally:
        for worker in started:
            worker.close()


def test_any_worker_speaks_for_all_the_living_and_the_dead(workers: list[Worker]) -> None:
    for asked in workers:
        found = asked.shown()
        assert of(found, "requests_total", route="predict", code="200") == 3
        assert of(found, "request_seconds_bucket", route="predict", le="0.025") == 3
        assert of(found, "predictions_total", label="red", abstained="true") == 3
        assert (of(found, "queue_waiting"), of(found, "queue_running")) == (7, 3)
        assert of(found, "model_info", name="colours", version="3", digest="d") == 1
        assert of(found, "ready") == 1
        assert all(name.startswith("assay_") for name, _ in found), "those of BentoML are not ours to show"
    workers[0].unready()
    assert of(workers[1].shown(), "ready") == 0, "one that is not ready is enough"
    workers[0].kill()
    found = workers[1].shown()
    assert of(found, "requests_total", route="predict", code="200") == 3, "totals never fall"
    assert (of(found, "queue_waiting"), of(found, "queue_running")) == (6, 2), "nothing waits for the dead"
    assert of(found, "ready") == 1


def test_a_model_is_named_no_longer_than_a_worker_serves_it(workers: list[Worker], tmp_path: Path) -> None:
    workers.append(Worker(tmp_path / "made by the first", 1, "e"))
    assert of(workers[0].shown(), "model_info", name="colours", version="3", digest="e") == 1
    workers[-1].kill()
    assert {dict(labels)["digest"] for name, labels in workers[0].shown() if name == "assay_model_info"} == {"d"}
