import random

import numpy as np
import pytest
import torch

from assay.training.seeding import isolated, seed_of

CPU = torch.device("cpu")


def interrupt() -> None:
    torch.rand(10)
    raise KeyboardInterrupt


def test_seeds_are_fixed_and_distinct() -> None:
    assert seed_of(0) == 7896617691693857887
    assert len({seed_of(a, b) for a in range(30) for b in range(30)}) == 900
    assert 0 <= seed_of(2**40, 7) < 2**63


def flags() -> tuple[object, ...]:
    deterministic, cudnn = torch.utils.deterministic, torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
        cudnn.deterministic,
        cudnn.benchmark,
    )


def states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_torch_is_deterministic_inside_and_unchanged_after() -> None:
    before = flags(), states()
    with isolated(CPU):
        assert torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(5)
        torch.rand(10)
    assert (flags(), states()) == before


def test_an_error_leaks_nothing_either() -> None:
    before = flags(), states()
    with pytest.raises(KeyboardInterrupt), isolated(CPU):
        interrupt()
    assert (flags(), states()) == before
