import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from serving.engine import Abandoned, Engine, Job
from serving.problems import Problem

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Record

Work = Callable[[Job[int]], int]


class Gate:
    """Work that begins and then waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Semaphore(0), threading.Event()

    def __call__(self, _: Job[int]) -> int:
        self.begun.release()
        assert self.open.wait(20)
        return 1


def quick(_: Job[int]) -> int:
    return 2


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@contextmanager
def engine(record: "Record", workers: int = 1, queue: int = 1, timeout_s: float = 20) -> Iterator[Engine]:
    made = Engine(workers, queue, timeout_s, record)
    try:
        yield made
    finally:
        made.close()


async def code(work: "asyncio.Future[int]") -> str:
    with pytest.raises(Problem) as caught:
        await work
    return caught.value.kind.code


async def begin(made: Engine, gate: Gate, others: int = 0) -> list["asyncio.Task[int]"]:
    """One job that is worked on, and others that wait."""
    tasks = [asyncio.create_task(made.run(gate))]
    assert await asyncio.to_thread(gate.begun.acquire, timeout=20)
    tasks += [asyncio.create_task(made.run(quick)) for _ in range(others)]
    await asyncio.sleep(0)
    return tasks


def test_work_is_done(record: "Record") -> None:
    with engine(record) as made:
        assert asyncio.run(made.run(quick)) == 2
    assert record.of("queue") == [[1, 0], [0, 1], [0, 0]]


def test_what_work_raises_is_raised(record: "Record") -> None:
    def fail(_: Job[int]) -> int:
        raise KeyError("x")

    with engine(record) as made, pytest.raises(KeyError):
        asyncio.run(made.run(fail))
    assert record.of("queue")[-1] == [0, 0]


def test_more_than_may_wait_are_turned_away(record: "Record", gate: Gate) -> None:
    async def scene(made: Engine) -> None:
        tasks = await begin(made, gate, others=2)
        assert made.refusal() is not None
        assert await code(asyncio.ensure_future(made.run(quick))) == "busy"
        gate.open.set()
        assert await asyncio.gather(*tasks) == [1, 2, 2]
        assert made.refusal() is None
        assert await made.run(quick) == 2

    with engine(record, queue=2) as made:
        asyncio.run(scene(made))


def test_work_that_takes_too_long_is_given_up(record: "Record", gate: Gate) -> None:
    async def scene(made: Engine) -> None:
        (slow,) = await begin(made, gate)
        assert await code(slow) == "timeout"
        gate.open.set()

    with engine(record, timeout_s=0.05) as made:
        asyncio.run(scene(made))
    assert record.of("queue")[-1] == [0, 0]


def test_work_that_waits_too_long_never_begins(record: "Record", gate: Gate) -> None:
    begun = []

    async def scene(made: Engine) -> None:
        first = (await begin(made, gate))[0]
        waiting = asyncio.ensure_future(made.run(lambda _: begun.append(1) or 1))
        assert [await code(first), await code(waiting)] == ["timeout", "timeout"]
        gate.open.set()

    with engine(record, timeout_s=0.05) as made:
        asyncio.run(scene(made))
    assert begun == []
    assert record.of("queue")[-1] == [0, 0]


def test_what_nobody_waits_for_is_let_go_before_its_turn(record: "Record", gate: Gate) -> None:
    class Images:
        pass

    async def scene(made: Engine) -> None:
        (first,) = await begin(made, gate)
        images = Images()
        held = weakref.ref(images)
        waiting = asyncio.ensure_future(made.run(lambda _, kept=images: 1 if kept else 0))
        del images
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        del waiting
        gc.collect()
        assert held() is None
        gate.open.set()
        assert await first == 1

    with engine(record) as made:
        asyncio.run(scene(made))


def test_work_can_stop_between_its_steps(record: "Record") -> None:
    seen: list[type[BaseException]] = []
    begun, go = threading.Event(), threading.Event()

    def steps(job: Job[int]) -> int:
        begun.set()
        assert go.wait(20)
        with pytest.raises(Abandoned) as caught:
            job.check()
        seen.append(caught.type)
        return 1

    async def scene(made: Engine) -> None:
        task = asyncio.ensure_future(made.run(steps))
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        await asyncio.wait({task})
        go.set()

    with engine(record) as made:
        asyncio.run(scene(made))
    assert seen == [Abandoned]


def test_who_drains_lets_nobody_in_and_finishes_the_work_of_those_who_are(record: "Record", gate: Gate) -> None:
    async def scene(made: Engine) -> None:
        tasks = await begin(made, gate, others=1)
        made.drain()
        refusal = made.refusal()
        assert refusal is not None
        assert refusal.kind.code == "draining"
        gate.open.set()
        assert await asyncio.gather(*tasks, made.run(quick)) == [1, 2, 2]

    with engine(record, queue=2) as made:
        asyncio.run(scene(made))
    assert record.of("ready") == [[True], [False], [False]]


def test_what_is_closed_does_no_work(record: "Record") -> None:
    with engine(record) as made:
        pass
    with pytest.raises(Problem, match="shutting down"):
        asyncio.run(made.run(quick))
