"""The rehearsal: the real service gets the test split over HTTP, and must say what the evaluation said."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from assay.console import progress
from assay.data.dataset import Dataset
from assay.data.sources import Sample, open_source
from assay.errors import DataError
from assay.models.bundle import Bundle
from assay.models.predictor import Predictor
from assay.release.endpoint import Endpoint, Http
from assay.release.golden import BFLOAT16_TOLERANCE
from assay.service import address, free_port, running

TOLERANCE = 1e-4
"""Largest absolute difference of a probability: what is sent rounds differently at most. In bfloat16 it may be larger
(`serving.runtimes`), and then so may that of an answer."""
CONCURRENCY = 4
TIMEOUT_S = 60.0
MAX_NAMED = 5


@dataclass(frozen=True)
class Rehearsal:
    """What the service said about the test images."""

    digest: str
    """Of the bundle."""
    images: int
    agreeing: int
    """Answers with the label and the probabilities that the model gives in this process."""
    right: int
    """Answers that are the image's own label."""
    disagreeing: tuple[str, ...]
    """The first of the others, each with what was wrong."""
    p50_ms: float
    """Latency of a request, as the client sees it, at `concurrency` requests at a time."""
    p95_ms: float
    p99_ms: float
    images_per_s: float
    ready_s: float
    """From its start until it was ready."""
    concurrency: int

    @property
    def passed(self) -> bool:
        """Whether every answer was the one that was expected."""
        return self.agreeing == self.images > 0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "passed": self.passed}


def rehearse(
    bundle: Bundle, version: str, dataset: Dataset, limit: int | None = None, concurrency: int = CONCURRENCY
) -> Rehearsal:
    """Start the service as a process, send it the original files of the test split, and compare.

    Args:
        bundle: what to serve.
        version: of the registry.
        dataset: split.
        limit: images to send; None for all.
        concurrency: requests at a time.

    Raises:
        ServiceError: the service does not start, or ends.
        Unreachable: it does not answer.
        DataError: the images cannot be read.
    """
    port, begun = free_port(), time.perf_counter()
    with running(bundle, version, port):
        ready_s = time.perf_counter() - begun
        return rehearse_at(Http(address(port)), bundle, dataset, ready_s, limit, concurrency)


def rehearse_at(
    endpoint: Endpoint,
    bundle: Bundle,
    dataset: Dataset,
    ready_s: float,
    limit: int | None = None,
    concurrency: int = CONCURRENCY,
) -> Rehearsal:
    """As `rehearse`, with a service that runs already, and took `ready_s` seconds to be ready."""
    table = dataset.subset("test").table
    table = table.slice(0, limit or table.num_rows)
    uris, labels = table["uri"].to_pylist(), table["label"].to_pylist()
    files = _files(dataset.source, uris)
    tolerance = _tolerance(endpoint)
    begun = time.perf_counter()
    answers = _sent(endpoint, files, concurrency)
    seconds = time.perf_counter() - begun
    problems = _problems(Predictor(bundle), bundle.digest, files, answers, tolerance)
    times = np.array([milliseconds for milliseconds, _ in answers])
    return Rehearsal(
        digest=bundle.digest,
        images=len(files),
        agreeing=sum(problem is None for problem in problems),
        right=sum(answer.get("label") == label for (_, answer), label in zip(answers, labels, strict=True)),
        disagreeing=tuple(f"{uri}: {why}" for uri, why in zip(uris, problems, strict=True) if why)[:MAX_NAMED],
        p50_ms=float(np.quantile(times, 0.5)),
        p95_ms=float(np.quantile(times, 0.95)),
        p99_ms=float(np.quantile(times, 0.99)),
        images_per_s=len(files) / seconds,
        ready_s=ready_s,
        concurrency=concurrency,
    )


def _files(uri: str, wanted: Sequence[str]) -> list[bytes]:
    """The original files, in the order of `wanted`."""
    source = open_source(uri)
    try:
        samples = {sample.uri: sample for sample in source.list()}
        return [source.read(_known(samples, name, uri)) for name in wanted]
    finally:
        source.close()


def _known(samples: dict[str, Sample], name: str, uri: str) -> Sample:
    if name not in samples:
        raise DataError(f"{uri}: {name} was in the test split and is not there any more; scan again")
    return samples[name]


def _sent(endpoint: Endpoint, files: Sequence[bytes], concurrency: int) -> list[tuple[float, dict[str, Any]]]:
    """Milliseconds and answer of each file."""
    with progress("rehearse", len(files), "images") as advance, ThreadPoolExecutor(concurrency) as pool:

        def send(data: bytes) -> tuple[float, dict[str, Any]]:
            begun = time.perf_counter()
            answer = endpoint.send("POST", "/v1/predict?top_k=100000", data, TIMEOUT_S).content()
            advance(1)
            return 1000 * (time.perf_counter() - begun), answer

        return list(pool.map(send, files))


def _tolerance(endpoint: Endpoint) -> float:
    runtime = str(endpoint.send("GET", "/v1/model").content().get("runtime"))
    return BFLOAT16_TOLERANCE if "bf16" in runtime else TOLERANCE


def _problems(
    predictor: Predictor,
    digest: str,
    files: Sequence[bytes],
    answers: Sequence[tuple[float, dict[str, Any]]],
    tolerance: float,
) -> list[str | None]:
    pairs = zip(files, answers, strict=True)
    return [_problem(predictor, digest, data, answer, tolerance) for data, (_, answer) in pairs]


def _problem(predictor: Predictor, digest: str, data: bytes, answer: dict[str, Any], tolerance: float) -> str | None:
    """How an answer differs from what the model says here; None if it does not."""
    if "error" in answer:
        return str(answer["error"].get("message", "refused"))
    if answer["model"]["digest"] != digest:
        return f"was answered by bundle {answer['model']['digest'][:12]}"
    expected = predictor.classify(data)
    apart = max(abs(p - answer["probabilities"].get(label, -1.0)) for label, p in expected.probabilities.items())
    if answer["label"] != expected.label or answer["abstained"] != expected.abstained or not apart <= tolerance:
        return f"is {answer['label']!r} over HTTP and {expected.label!r} here, probabilities {apart:.1e} apart"
    return None


def rehearsal_text(rehearsal: Rehearsal) -> str:
    """For a person."""
    lines = [
        f"{rehearsal.agreeing:,} of {rehearsal.images:,} answers are those of the model in this process",
        f"{rehearsal.right / max(rehearsal.images, 1):.1%} are the image's own label",
        f"latency p50 {rehearsal.p50_ms:.0f} ms, p95 {rehearsal.p95_ms:.0f} ms, p99 {rehearsal.p99_ms:.0f} ms, "
        f"{rehearsal.images_per_s:,.0f} images/s with {rehearsal.concurrency} requests at a time",
        f"ready after {rehearsal.ready_s:.1f} s",
    ]
    return "\n".join([*lines, *(f"  {line}" for line in rehearsal.disagreeing)])
