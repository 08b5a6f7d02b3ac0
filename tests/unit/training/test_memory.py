import ctypes
import resource

import pytest
import torch

from assay.training.memory import kept


def page_faults(steps: int = 5) -> int:
    """Of allocating and dropping 64 MiB, a few times."""
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
def test_memory_is_used_again_and_given_back() -> None:
    with kept():
        inside = page_faults()
    assert inside < page_faults() / 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with kept():
        assert page_faults(1) >= 0
