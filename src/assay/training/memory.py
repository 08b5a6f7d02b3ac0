"""How the process's memory is handled while a model is trained on a CPU."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Of malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
MIB = 2**20
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * MIB}
# What glibc starts with, and what its thresholds come to by themselves once a block of 32 MiB has been freed.
USUAL = {M_MMAP_MAX: 65_536, M_TOP_PAD: 128 * 1024, M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 64 * MIB}


@contextmanager
def kept() -> Iterator[None]:
    """Let malloc keep what is freed for the next step, and give it back at the end.

    glibc returns blocks of 32 MiB and more to the system as soon as they are freed, and among the activations of a
    step there are many: each step would have all their pages zeroed and mapped again, for a sixth of its time.
    Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    _set(library, KEEP)
    try:
        yield
    finally:
        _set(library, USUAL)
        library.malloc_trim(ctypes.c_size_t(0))


def _set(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)
