"""What images may take of the memory: found out once, when the model is loaded, and then never passed.

A decoder cannot be interrupted, and the kernel ends a process that takes more than its container may have. So what a
decoding will take is known before it begins (`serving.headers.cost`), and it begins when there is room for it.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from serving.settings import PREFIX, Settings, SettingsError

CONTROL_GROUP = Path("/sys/fs/cgroup")
MACHINE = Path("/proc/meminfo")
LEAST = 16_000_000
"""Bytes for decoding below which there is no point in starting: a photo of 4 megapixels as PNG."""

_RESERVE = 1 / 8
"""Share of what is free that is left to inference, and to an allocator that does not give everything back."""
_HELD = 1 / 4
"""Share of what is free that bodies may take."""
_LOOK_S = 0.1
"""How often those who wait look whether anybody still waits for them."""


class Room:
    """Memory that is taken and given back by threads, in the order in which they ask for it."""

    def __init__(self, total: int) -> None:
        self.total = total
        """Bytes. Who needs more than that must not ask for it: it would wait for good."""
        self.taken = 0
        self._changed = threading.Condition()
        self._turns: deque[object] = deque()

    @contextmanager
    def hold(self, cost: int, check: Callable[[], None]) -> Iterator[None]:
        """Wait until `cost` bytes are free, and have them for as long as the block runs.

        In turn, also those who need little: otherwise who needs much would wait while others pass by.

        Args:
            cost: bytes, at most `total`.
            check: called while it waits; what it raises ends that.
        """
        with self._changed:
            self._wait(cost, check)
            self.taken += cost
        try:
            yield
        finally:
            with self._changed:
                self.taken -= cost
                self._changed.notify_all()

    def _wait(self, cost: int, check: Callable[[], None]) -> None:
        turn = object()
        self._turns.append(turn)
        try:
            while self._turns[0] is not turn or self.taken + cost > self.total:
                self._changed.wait(_LOOK_S)
                check()
        finally:
            self._turns.remove(turn)
            self._changed.notify_all()


def fitted(settings: Settings, free: int) -> Settings:
    """The settings with `decode_bytes` and `max_held_bytes` as they hold where `free` bytes of memory are free.

    Raises:
        SettingsError: too little is left for decoding.
    """
    held = min(settings.max_held_bytes, max(int(free * _HELD), settings.max_body_bytes))
    # A body is whole in memory a second time for a moment, when its pieces are joined.
    left = int(free * (1 - _RESERVE)) - held - settings.max_body_bytes
    if not settings.decode_bytes and left < LEAST:
        raise SettingsError(
            f"{PREFIX}DECODE_BYTES: {free:,} bytes of memory are free, which leaves {max(left, 0):,} for decoding, and "
            f"{LEAST:,} are needed; give more memory, or set {PREFIX}MAX_BODY_BYTES lower"
        )
    return replace(settings, decode_bytes=settings.decode_bytes or left, max_held_bytes=held)


def free(group: Path = CONTROL_GROUP, machine: Path = MACHINE) -> int:
    """Bytes of memory that this process may still take: those of its control group, or else of the machine.

    Of a control group what is in use counts, of a machine it does not: what others take there comes and goes.

    Args:
        group: the folder of the control group, as Linux has it in a container, version 2 or 1.
        machine: a file as Linux's `/proc/meminfo`.
    """
    total = _fields(machine).get("MemTotal:", 0) * 1024
    for limit, usage, folder in (
        ("memory.max", "memory.current", group),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", group / "memory"),
    ):
        allowed = _number(folder / limit)
        if allowed and (not total or allowed < total):
            return allowed - (_number(folder / usage) or 0) + _cached(folder)
    return total or 2**31  # no Linux: as much as any machine has that serves


def return_at_once() -> None:
    """Have the C library give large blocks back to the system when they are freed, instead of keeping them for later.

    It would keep up to the most that each thread ever had at once, beside what the other threads take. (`mallopt` of
    glibc; another library is left as it is.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Have the C library give back what it keeps of many small blocks, as pieces of bodies are (`malloc_trim`)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_MMAP_THRESHOLD, _LARGE = -3, 4 * 2**20


def _cached(folder: Path) -> int:
    """Bytes of files that the kernel keeps, and drops when memory is wanted."""
    told = _fields(folder / "memory.stat")
    return told.get("active_file", 0) + told.get("inactive_file", 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _fields(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
