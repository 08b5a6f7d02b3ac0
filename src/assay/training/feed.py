"""The input pipeline: batches made ahead of their use, the same ones whoever makes them.

What is in a batch depends on the seed, the epoch and the batch's number only. So neither how far the feed is ahead nor
how many processes make batches changes a result, and training can be continued at any epoch.
"""

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from assay.errors import AssayError
from assay.training.augment import Augmenter
from assay.training.seeding import AUGMENTING, SHUFFLING, seed_of
from assay.training.sizes import shrunk

if TYPE_CHECKING:
    from assay.data.dataset import Subset

AHEAD = 3
"""Batches that wait for the model at most."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Pixels uint8 [n, s, s, 3] and class ids int64 [n]."""


@dataclass(frozen=True)
class Job:
    """One batch to be made: rows of the subset, and where it stands in the training."""

    indices: np.ndarray
    epoch: int = 0
    number: int = 0


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of an epoch of training. What does not fill a batch is left out, unless there is no other."""
    return max(1, images // batch_size)


def training_jobs(images: int, batch_size: int, seed: int, epochs: Iterable[int]) -> Iterator[Job]:
    """The batches of `epochs`, each epoch in an order of its own."""
    for epoch in epochs:
        order = np.random.default_rng(seed_of(seed, SHUFFLING, epoch)).permutation(images)
        for number in range(steps_per_epoch(images, batch_size)):
            yield Job(order[number * batch_size : (number + 1) * batch_size], epoch, number)


def plain_jobs(images: int, batch_size: int) -> Iterator[Job]:
    """Every image once, in order; the last batch may be smaller."""
    for start in range(0, images, batch_size):
        yield Job(np.arange(start, min(start + batch_size, images)))


class Maker(torch.utils.data.Dataset[Any]):
    """Makes batches of a subset; torch's DataLoader takes it into its processes.

    Args:
        subset: where the pixels come from.
        augment: what changes them; None leaves them as they are.
        seed: of the augmentation.
        sizes: side in pixels of the images of each epoch; () leaves them as they are.
    """

    def __init__(
        self, subset: "Subset", augment: Augmenter | None = None, seed: int = 0, sizes: Sequence[int] = ()
    ) -> None:
        self.subset, self.augment, self.seed, self.sizes = subset, augment, seed, sizes

    def __getitem__(self, job: Job) -> tuple[np.ndarray, np.ndarray] | AssayError:
        try:
            pixels = self.subset.read(job.indices)
        except AssayError as error:  # handed over as it is: DataLoader would wrap it in the worker's traceback
            return error
        if self.augment is not None:
            self.augment(pixels, (self.seed, AUGMENTING, job.epoch, job.number))
        if self.sizes:
            pixels = shrunk(pixels, self.sizes[job.epoch])
        return pixels, self.subset.targets[job.indices]


def workers_for(device: torch.device) -> int:
    """How many processes make batches: none for a CPU, where they would take cores from the training.

    There a thread does it: reading and OpenCV release the interpreter lock.
    """
    if device.type == "cpu":
        return 0
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 4))


class Feed:
    """An iterator over batches that a thread makes ahead, by itself or with `workers` processes.

    `waited` is the time in seconds that the reader spent waiting for a batch. Close it after use, or use `with`.
    Errors of the making come out at the place of the batch.
    """

    def __init__(self, maker: Maker, jobs: Iterator[Job], workers: int = 0, pin: bool = False) -> None:
        self.waited = 0.0
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._pin = pin
        self._thread = threading.Thread(target=self._fill, args=(maker, jobs, workers), name="feed", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and its processes."""
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - start
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def _fill(self, maker: Maker, jobs: Iterator[Job], workers: int) -> None:
        try:
            for made in _made(maker, jobs, workers):
                if not self._put(made if isinstance(made, AssayError) else self._tensors(*made)):
                    return
            self._put(None)
        except BaseException as error:  # raised again where the batch is taken
            self._put(error)

    def _tensors(self, pixels: np.ndarray, targets: np.ndarray) -> Batch:
        batch = torch.from_numpy(pixels), torch.from_numpy(targets)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self._pin else batch

    def _put(self, item: Batch | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def _made(maker: Maker, jobs: Iterator[Job], workers: int) -> Iterator[Any]:
    if not workers:
        return (maker[job] for job in jobs)
    # Batches come as arrays through a pipe: tensors would go through /dev/shm, of which pods have too little.
    loader = torch.utils.data.DataLoader(
        maker,
        batch_size=None,
        sampler=jobs,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="spawn",
    )
    return iter(loader)


def _as_it_is(made: Any) -> Any:
    return made
