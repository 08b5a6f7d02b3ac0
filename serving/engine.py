"""A bounded queue in front of a few threads. ONNX Runtime and Pillow let other threads run while they work.

Nothing here belongs to an event loop: any of them may ask for work to be done.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from serving.problems import BUSY, DRAINING, TIMEOUT, Problem

T = TypeVar("T")


class QueueMetrics(Protocol):
    """Where the length of the queue is told to."""

    def queue(self, waiting: int, running: int) -> None:
        """How many requests wait, and how many are worked on."""
        ...

    def ready(self, accepting: bool) -> None:
        """Whether work is taken."""
        ...


class Abandoned(Exception):
    """Nobody waits for this work any more."""


class Job(Generic[T]):
    """One piece of work, from being let in until it is done, has failed, or nobody wants it any more."""

    def __init__(self, work: Callable[["Job[T]"], T], timeout_s: float) -> None:
        self._work: Callable[[Job[T]], T] | None = work
        self._until = time.monotonic() + timeout_s
        self._abandoned = False
        self.begun = False

    def check(self) -> None:
        """To be called between the steps of the work.

        Raises:
            Abandoned: the client is gone or its time is up, and what is left need not be done.
        """
        if self._abandoned:
            raise Abandoned

    def left_s(self) -> float:
        """Seconds until its time is up, 0 if it is."""
        return max(0.0, self._until - time.monotonic())

    def abandon(self) -> None:
        """Skip what has not been done. A job that never begins lets go of its images at once, not when it is taken."""
        self._abandoned = True
        if not self.begun:
            self._work = None

    def run(self) -> T:
        """Do the work, in a thread of the engine."""
        work = self._work
        self.check()
        if work is None:  # abandoned since
            raise Abandoned
        return work(self)


class Engine:
    """Runs jobs on `workers` threads while at most `queue` others wait."""

    def __init__(self, workers: int, queue: int, timeout_s: float, metrics: QueueMetrics) -> None:
        self.workers, self.queue, self.timeout_s = workers, queue, timeout_s
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="assay-engine")
        self._lock = threading.Lock()
        self._waiting = self._running = 0
        self._draining = self._closed = False
        metrics.ready(True)

    def refusal(self) -> Problem | None:
        """Why a request that comes in now would be turned away; None: it would not be."""
        return self._going() if self._draining else self._full()

    async def run(self, work: Callable[[Job[T]], T]) -> T:
        """Have `work` done and give what it gives, as `begin` does."""
        return await self.begin(work)

    def begin(self, work: Callable[[Job[T]], T]) -> "asyncio.Future[T]":
        """Let `work` in, for whoever awaits the result. If that is cancelled, what has not begun is skipped.

        The future, rather than a coroutine, spares each request a task; so does a timer of its own.

        Raises:
            Problem: the queue is full, or the service is shutting down; of the future: the time is up.
        """
        loop, job = asyncio.get_running_loop(), Job(work, self.timeout_s)
        doing, answer = self._admit(job), loop.create_future()
        timer = loop.call_later(self.timeout_s, self._expire, answer)

        def settled(_: "asyncio.Future[T]") -> None:
            timer.cancel()
            job.abandon()
            doing.cancel()  # does nothing once it has begun

        def done(_: "Future[T]") -> None:
            if not (answer.cancelled() and loop.is_closed()):
                loop.call_soon_threadsafe(_hand_over, doing, answer)

        answer.add_done_callback(settled)
        doing.add_done_callback(done)
        return answer

    def drain(self) -> None:
        """Let no further request in. Those that are in, on whose bodies we may still wait, have their work done."""
        self._draining = True
        self._metrics.ready(False)

    def close(self) -> None:
        """`drain`, take no work at all, and wait until nothing is worked on any more."""
        self.drain()
        with self._lock:  # whoever is being let in is in before the door shuts
            self._closed = True
        self._pool.shutdown(wait=True)

    def _admit(self, job: Job[T]) -> "Future[T]":
        with self._lock:
            if (problem := self._going() if self._closed else self._full()) is not None:
                raise problem
            self._count(waiting=1)
            future = self._pool.submit(self._run, job)
        future.add_done_callback(lambda _: self._ended(job))
        return future

    def _expire(self, answer: "asyncio.Future[Any]") -> None:
        if not answer.done():
            message = f"not done within {self.timeout_s:g} seconds, waiting included"
            answer.set_exception(Problem(TIMEOUT, message, self.timeout_s))

    def _going(self) -> Problem:
        return Problem(DRAINING, "the service is shutting down")

    def _full(self) -> Problem | None:
        if self._waiting + self._running < self.workers + self.queue:
            return None
        return Problem(BUSY, f"{self._waiting} requests are waiting, and no more may", self.queue)

    def _run(self, job: Job[T]) -> T:
        with self._lock:
            job.begun = True
            self._count(waiting=-1, running=1)
        return job.run()

    def _ended(self, job: Job[Any]) -> None:
        with self._lock:  # one that has not begun was cancelled while it waited
            self._count(running=-1) if job.begun else self._count(waiting=-1)

    def _count(self, waiting: int = 0, running: int = 0) -> None:
        """Under the lock, so that the last numbers told are the last there were."""
        self._waiting += waiting
        self._running += running
        self._metrics.queue(self._waiting, self._running)


def _hand_over(doing: "Future[T]", answer: "asyncio.Future[T]") -> None:
    """In the event loop: what a thread has done, if anybody still waits for it."""
    if answer.done():
        return
    if (error := doing.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(doing.result())
