"""The smoke test: what was deployed says who it is, gives the golden answers, and goes on doing so for a while."""

import time
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import yaml

from assay.console import progress
from assay.gate.ledger import Release
from assay.release import prometheus
from assay.release.endpoint import Endpoint, Unreachable
from assay.release.golden import Golden, problem_of, tolerance_of
from assay.release.prometheus import Figures
from assay.release.targets import ReleaseError, State, Target

SOAK_S = {"staging": 20.0, "production": 90.0}
"""How long a new release is watched before it counts as served, by environment."""
PAUSE_S = 0.1
"""Between two probes."""
LOOK_EVERY_S = 1.0
"""How often the environment itself is asked how its instances are."""
MAX_P95_MS = 1000.0
MAX_ERROR_RATE = 0.01
"""Share of all clients' requests that may fail, where Prometheus counts them. Of our own probes none may."""


@dataclass(frozen=True)
class Smoke:
    """What was seen; a failure is raised instead."""

    endpoints: int
    """Addresses that gave every golden answer: the service, and each instance."""
    golden: int
    """Golden images that each was sent."""
    probes: int
    """Requests while it was watched."""
    p95_ms: float
    """Of the probes; NaN without any."""
    clients: Figures | None
    """What all clients saw, by Prometheus; None if none is configured."""

    def __str__(self) -> str:
        watched = f", {self.probes:,} probes, p95 {self.p95_ms:.0f} ms" if self.probes else ""
        clients = f", {self.clients.error_rate:.2%} errors by Prometheus" if self.clients else ""
        addresses = f"{self.endpoints} address{'es' * (self.endpoints > 1)}"
        return f"{self.golden} golden images right at {addresses}{watched}{clients}"


def smoke(target: Target, release: Release, golden: Golden, soak_s: float, max_p95_ms: float = MAX_P95_MS) -> Smoke:
    """Check a release that was deployed.

    Args:
        target: where it runs.
        release: what must run there.
        golden: of its bundle.
        soak_s: seconds for which it is then watched, with a golden image every `PAUSE_S`; nought to leave that out.
        max_p95_ms: what the 95th percentile of the probes' latency may be, in milliseconds, as seen from here.

    Raises:
        ReleaseError: anything is not as it must be; the message says what was seen.
    """
    endpoints = target.endpoints(release)
    for endpoint in endpoints:
        check_endpoint(endpoint, release, golden)
    times = _soak(target, release, golden, endpoints[0], soak_s) if soak_s > 0 else []
    p95 = float(np.quantile(times, 0.95)) if times else float("nan")
    clients = _clients(release, soak_s) if soak_s > 0 else None
    slowest = max([*([p95] if times else []), *([clients.p95_ms] if clients else [])], default=0.0)
    if slowest > max_p95_ms:
        raise ReleaseError(f"{release}: the 95th percentile of latency is {slowest:.0f} ms, above {max_p95_ms:.0f} ms")
    return Smoke(len(endpoints), len(golden.examples), len(times), p95, clients)


def check_endpoint(endpoint: Endpoint, release: Release, golden: Golden) -> None:
    """Let one address say who it is, and give every golden answer.

    Raises:
        ReleaseError: it is another one, gives another answer, or none.
    """
    try:
        tolerance = _identified(endpoint, release)
        for example in golden.examples:
            if problem := problem_of(endpoint, example, release.bundle_digest, tolerance):
                raise ReleaseError(f"{release}: {endpoint.name} {problem}")
    except Unreachable as error:
        raise ReleaseError(f"{release}: {error}") from None


def _identified(endpoint: Endpoint, release: Release) -> float:
    """The tolerance for its answers, once it has said that it is this release."""
    answer = endpoint.send("GET", "/v1/model")
    if answer.status != 200:
        raise ReleaseError(f"{release}: {endpoint.name} answered {answer.status} when asked which model it serves")
    said = answer.content()
    if (said.get("version"), said.get("digest")) != (release.version, release.bundle_digest):
        other = f"version {said.get('version')} ({str(said.get('digest'))[:12]})"
        raise ReleaseError(f"{release}: {endpoint.name} serves {other} instead")
    return tolerance_of(str(said.get("runtime")))


def _soak(target: Target, release: Release, golden: Golden, endpoint: Endpoint, soak_s: float) -> list[float]:
    """Milliseconds of each probe."""
    tolerance, first = _identified(endpoint, release), _checked(target, release)
    examples = cycle(golden.examples)
    begun, looked, times = time.monotonic(), 0.0, []
    with progress("soak", round(soak_s), "s") as advance:
        while (passed := time.monotonic() - begun) < soak_s:
            sent = time.perf_counter()
            try:
                problem = problem_of(endpoint, next(examples), release.bundle_digest, tolerance)
            except Unreachable as error:
                raise ReleaseError(f"{release}: after {passed:.0f} s {error}") from None
            if problem:
                raise ReleaseError(f"{release}: after {passed:.0f} s {endpoint.name} {problem}")
            times.append(1000 * (time.perf_counter() - sent))
            if passed - looked >= LOOK_EVERY_S:
                advance(int(passed) - int(looked))
                looked = passed
                _checked(target, release, first)
            time.sleep(PAUSE_S)
    _checked(target, release, first)
    return times


def _checked(target: Target, release: Release, first: State | None = None) -> State:
    """How its instances are.

    Args:
        target: where they run.
        release: which they must be.
        first: how they were when the watch began; those that an autoscaler adds later need not be ready yet.

    Raises:
        ReleaseError: not all of them are ready, or one was started again.
    """
    state = target.state()
    if state is None or state.label != release.label:
        raise ReleaseError(f"{release}: something else was deployed to {release.environment} meanwhile")
    grows = first is not None and state.wanted > first.wanted and state.ready >= first.wanted
    if not state.healthy and not grows:
        why = f": {'; '.join(state.problems)}" if state.problems else ""
        raise ReleaseError(f"{release}: {state.ready} of {state.wanted} instances are ready{why}")
    if first is not None and state.restarts > first.restarts:
        raise ReleaseError(f"{release}: an instance ended and was started again while it was watched")
    return state


def _namespace(release: Release) -> str:
    """Of its instances on a cluster; empty for a process."""
    documents = [document for document in yaml.safe_load_all(release.manifests) if document]
    return str(documents[0]["metadata"]["namespace"]) if documents else ""


def _clients(release: Release, soak_s: float) -> Figures | None:
    """What Prometheus counted, if there is one; never more failures than `MAX_ERROR_RATE`."""
    url = prometheus.prometheus_url()
    if url is None:
        return None
    try:
        found = prometheus.figures(url, release.bundle_digest, soak_s, _namespace(release))
    except prometheus.NoFigures as error:
        raise ReleaseError(f"{release}: {error}") from None
    if found.error_rate > MAX_ERROR_RATE:
        raise ReleaseError(f"{release}: {found.error_rate:.2%} of all requests failed, above {MAX_ERROR_RATE:.0%}")
    return found
