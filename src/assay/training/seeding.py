"""Randomness: every draw comes from a seed of its own, and nothing of it is left to the caller."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# What a seed is for, so that no two uses share one.
INITIALISING, SHUFFLING, AUGMENTING, DROPPING = range(4)


def seed_of(*parts: int) -> int:
    """One 63-bit seed from several non-negative integers, such as the recipe's seed and the epoch."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Inside, torch computes deterministically; afterwards its generators and flags are what they were before."""
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    debugging: Any = torch.utils.deterministic
    fill = debugging.fill_uninitialized_memory
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    if device.type == "cuda":  # read when cuBLAS starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            # Warns of an operation that has no deterministic form, which only CUDA has some of.
            torch.use_deterministic_algorithms(True, warn_only=True)
            debugging.fill_uninitialized_memory = False  # costs time, and changes no result
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            yield
        finally:
            torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
            debugging.fill_uninitialized_memory = fill
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
