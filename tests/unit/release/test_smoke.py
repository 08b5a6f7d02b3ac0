"""The smoke test against services and environments that misbehave at a chosen moment, as real ones do by chance."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any

import pytest

from assay.gate.ledger import Release
from assay.release import smoke as smoke_module
from assay.release.endpoint import Answer, Unreachable
from assay.release.golden import Example, Golden
from assay.release.smoke import smoke
from assay.release.targets import ReleaseError, State

from ledgers import digest

GOLDEN = Golden(digest("bundle"), (Example(b"red", {"red": 0.75, "blue": 0.25}), Example(b"blue", {"blue": 1.0})))
RELEASE = Release(
    bundle_digest=digest("bundle"), environment="staging", golden_digest=GOLDEN.digest, image="", manifests="",
    model="demo", target="process", version="3",
)  # fmt: skip
WELL = State(RELEASE.label, "3", digest("bundle"), wanted=2, ready=2, restarts=1)


@dataclass
class Service:
    """Gives the golden answers, until it is told otherwise."""

    name: str = "service"
    says: dict[str, Any] = field(
        default_factory=lambda: {"version": "3", "digest": digest("bundle"), "runtime": "fp32"}
    )
    then: Callable[[int], Answer | None] = lambda _: None
    asked: int = 0

    def send(self, method: str, path: str, body: bytes = b"", timeout_s: float = 30.0) -> Answer:
        if path == "/v1/model":
            return Answer(200, json.dumps(self.says).encode())
        self.asked += 1
        right = next(e for e in GOLDEN.examples if e.image == body)
        answer = {"model": {"digest": self.says["digest"]}, "probabilities": right.probabilities}
        return self.then(self.asked) or Answer(200, json.dumps(answer).encode())


@dataclass
class Place:
    """A target whose state changes as it is told; only what the smoke test asks for is there."""

    services: list[Service]
    states: Iterator[State | None] = field(default_factory=lambda: repeat(WELL))

    def endpoints(self, release: Release) -> list[Service]:
        return self.services

    def state(self) -> State | None:
        return next(self.states)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(smoke_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.delenv("ASSAY_PROMETHEUS_URL", raising=False)


def check(place: Place, soak_s: float = 0.3, max_p95_ms: float = 1000.0) -> Any:
    return smoke(place, RELEASE, GOLDEN, soak_s, max_p95_ms)  # type: ignore[arg-type]


def test_every_address_gives_every_golden_answer_and_goes_on() -> None:
    place = Place([Service("service"), Service("pod a"), Service("pod b")])
    seen = check(place)
    assert (seen.endpoints, seen.golden, seen.clients) == (3, 2, None)
    assert seen.probes > 5
    assert [service.asked for service in place.services] == [2 + seen.probes, 2, 2]


def test_without_a_soak_there_are_no_probes() -> None:
    assert check(Place([Service()]), soak_s=0).probes == 0


@pytest.mark.parametrize(
    ("says", "wrong"),
    [
        ({"version": "2"}, "service serves version 2 "),
        ({"digest": digest("other")}, f"service serves version 3 \\({digest('other')[:12]}\\) instead"),
        ({"runtime": None, "version": None}, "serves version None"),
    ],
)
def test_who_is_somebody_else_is_named(says: dict[str, Any], wrong: str) -> None:
    service = Service()
    service.says |= says
    with pytest.raises(ReleaseError, match=wrong):
        check(Place([Service(), service]))


@pytest.mark.parametrize("runtime", ["onnxruntime 1.31, fp32", "openvino 2026.4, bf16"])
def test_bfloat16_may_be_further_away(runtime: str) -> None:
    near = Answer(
        200, json.dumps({"model": {"digest": digest("bundle")}, "probabilities": {"red": 0.76, "blue": 1.0}}).encode()
    )
    golden = replace(GOLDEN, examples=(Example(b"red", {"red": 0.75}),))
    service = Service(then=lambda _: near)
    service.says |= {"runtime": runtime}
    place = Place([service])
    allowed = nullcontext() if "bf16" in runtime else pytest.raises(ReleaseError, match="away from the expected one")
    with allowed:
        smoke(place, RELEASE, golden, 0)  # type: ignore[arg-type]


def later(answer: Answer) -> Callable[[int], Answer | None]:
    """From the tenth request on."""
    return lambda asked: answer if asked >= 10 else None


def gone(asked: int) -> None:
    if asked >= 10:
        raise Unreachable("service does not answer: connection refused")


@pytest.mark.parametrize(
    ("then", "wrong"),
    [
        (later(Answer(500, b'{"error": {"message": "a defect"}}')), r"after \d+ s service answered 500: a defect"),
        (later(Answer(200, b'{"model": {"digest": "x"}, "probabilities": {}}')), "was answered by bundle x"),
        (gone, "does not answer: connection refused"),
    ],
)
def test_what_fails_while_it_is_watched_is_found(then: Callable[[int], Any], wrong: str) -> None:
    with pytest.raises(ReleaseError, match=wrong):
        check(Place([Service(then=then)]))


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        (replace(WELL, ready=1, problems=("pod b: CrashLoopBackOff",)), "1 of 2 instances are ready: pod b: CrashLoop"),
        (replace(WELL, restarts=2), "an instance ended and was started again"),
        (replace(WELL, label="other"), "something else was deployed to staging meanwhile"),
        (replace(WELL, wanted=0, ready=0), "0 of 0 instances"),
        (None, "something else was deployed"),
    ],
)
@pytest.mark.parametrize("when", [0, 2])
def test_what_happens_to_the_instances_is_found(state: State | None, wrong: str, when: int) -> None:
    if when == 0 and state is not None and state.restarts == 2:
        pytest.skip("what was started again before it was watched may be")
    with pytest.raises(ReleaseError, match=wrong):
        check(Place([Service()], chain([WELL] * when, repeat(state))))


def test_an_instance_that_an_autoscaler_adds_need_not_be_ready_at_once() -> None:
    growing = replace(WELL, wanted=3, problems=("pod c: starting",))
    assert check(Place([Service()], chain([WELL], repeat(growing)))).probes


def test_the_watch_begins_when_it_has_looked_once() -> None:
    def slowly() -> Iterator[State]:
        time.sleep(0.3)
        yield from repeat(WELL)

    assert check(Place([Service()], slowly()), soak_s=0.1).probes


def test_what_is_slow_is_found() -> None:
    with pytest.raises(ReleaseError, match="95th percentile of latency is"):
        check(Place([Service()]), max_p95_ms=1e-9)


def test_a_prometheus_that_is_asked_for_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PROMETHEUS_URL", "http://127.0.0.1:9")
    with pytest.raises(ReleaseError, match="Prometheus cannot be asked"):
        check(Place([Service()]))
