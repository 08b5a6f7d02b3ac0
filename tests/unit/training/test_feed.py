import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.data.dataset import Dataset
from assay.errors import DataError
from assay.training.augment import Augmenter
from assay.training.feed import AHEAD, Feed, Job, Maker, plain_jobs, steps_per_epoch, training_jobs, workers_for

SEED = 3


def made(dataset: Dataset, workers: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    subset = dataset.subset("train")
    augment = Augmenter(({"HorizontalFlip": {}}, {"RandomBrightnessContrast": {}}), 32)
    jobs = training_jobs(len(subset), 16, SEED, range(2))
    with Feed(Maker(subset, augment, SEED), jobs, workers) as feed:
        return list(feed)


def feeding() -> bool:
    return any(thread.name == "feed" for thread in threading.enumerate())


@given(images=st.integers(1, 200), batch=st.integers(2, 50))
def test_validation_sees_every_image_once(images: int, batch: int) -> None:
    jobs = list(plain_jobs(images, batch))
    assert np.array_equal(np.concatenate([job.indices for job in jobs]), np.arange(images))
    assert all(len(job.indices) == batch for job in jobs[:-1])


@given(images=st.integers(2, 200), batch=st.integers(2, 50), seed=st.integers(0, 9))
def test_training_sees_whole_batches_and_no_image_twice(images: int, batch: int, seed: int) -> None:
    jobs = list(training_jobs(images, batch, seed, [4]))
    seen = np.concatenate([job.indices for job in jobs])
    assert len(np.unique(seen)) == len(seen)
    assert {len(job.indices) for job in jobs} == {min(batch, images)}
    assert len(jobs) == steps_per_epoch(images, batch)
    assert images - len(seen) < batch


def test_order_is_new_in_each_epoch_and_the_same_again() -> None:
    def orders(seed: int) -> list[bytes]:
        return [job.indices.tobytes() for job in training_jobs(64, 64, seed, range(3))]

    assert orders(1) == orders(1)
    assert len({*orders(1), *orders(2)}) == 6


def test_an_epoch_does_not_depend_on_those_before_it() -> None:
    whole = [job for job in training_jobs(64, 16, SEED, range(3)) if job.epoch == 2]
    alone = list(training_jobs(64, 16, SEED, [2]))
    assert [job.indices.tobytes() for job in whole] == [job.indices.tobytes() for job in alone]


def test_batches_are_pixels_and_their_classes(dataset: Dataset) -> None:
    subset = dataset.subset("validation")
    with Feed(Maker(subset), plain_jobs(len(subset), 10)) as feed:
        pixels, targets = (torch.cat(parts) for parts in zip(*feed, strict=True))
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), subset.read(np.arange(len(subset))))
    assert np.array_equal(targets.numpy(), subset.targets)


def test_a_process_makes_the_same_batches_as_the_thread(dataset: Dataset) -> None:
    here, there = made(dataset), made(dataset, workers=1)
    assert len(here) == 10
    assert all(
        torch.equal(a, b) for one, other in zip(here, there, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_no_more_is_made_than_is_soon_used(dataset: Dataset) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[Job]:
        for number in range(100):
            taken.append(number)
            yield Job(np.arange(4), 0, number)

    with Feed(Maker(dataset.subset("train")), jobs()) as feed:
        next(feed)
        time.sleep(0.3)
        assert len(taken) <= AHEAD + 2


def test_waiting_is_measured(dataset: Dataset) -> None:
    def slow() -> Iterator[Job]:
        time.sleep(0.2)
        yield Job(np.arange(4))

    with Feed(Maker(dataset.subset("train")), slow()) as feed:
        assert len(list(feed)) == 1
    assert feed.waited > 0.1


def test_trouble_comes_out_after_the_batches_before_it(dataset: Dataset) -> None:
    def jobs() -> Iterator[Job]:
        yield Job(np.arange(4))
        raise DataError("shard gone")

    with Feed(Maker(dataset.subset("train")), jobs()) as feed:
        next(feed)
        with pytest.raises(DataError, match="shard gone"):
            next(feed)


def test_a_shard_that_is_gone_is_one_clear_error(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset()
    subset = dataset.subset("train")
    for shard in dataset.shards.glob("*.npy"):
        shard.unlink()
    with Feed(Maker(subset), plain_jobs(len(subset), 8)) as feed, pytest.raises(DataError, match=r"\.npy"):
        next(feed)


def test_nothing_is_left_running(dataset: Dataset) -> None:
    subset = dataset.subset("train")
    with Feed(Maker(subset), plain_jobs(len(subset), 2)) as feed:
        next(feed)
        assert feeding()
    assert not feeding()


def test_a_cpu_needs_no_processes() -> None:
    assert workers_for(torch.device("cpu")) == 0
    assert workers_for(torch.device("cuda")) >= 1
