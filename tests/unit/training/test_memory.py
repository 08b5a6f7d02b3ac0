import ctypes
import subprocess
import sys

import pytest

from assay.training import memory

# In a process of its own, whose memory no other test has used.
SCRIPT = """
import resource, runpy, sys

def page_faults():
    b"x" * 2**26
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults())
with runpy.run_path(sys.argv[1])["kept"]():
    print(page_faults())
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
def test_memory_is_used_again_and_given_back() -> None:
    command = [sys.executable, "-c", SCRIPT, memory.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    outside, inside, resident = map(int, done.stdout.split())
    assert inside < outside / 10
    assert resident < 2**26


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with memory.kept():
        pass
