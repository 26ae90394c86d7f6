"""The heap keeps freed memory."""

import ctypes
import subprocess
import sys

import pytest

# In a process of its own, because mallopt cannot be undone. Prints the page faults of a loop that
# allocates and frees chunks.
FAULTS = """
import resource, sys
from modelfs.fs.host.malloc import keep_heap
if sys.argv[1] == "kept":
    keep_heap()
for number in range(100):
    chunks = [b"x" * (1 << 20) for _ in range(8)]
    del chunks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    """Consecutive chunks use the same pages, so there are few page faults."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    assert faults("kept") < faults("not") / 3
