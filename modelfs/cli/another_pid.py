"""Continuing a command under another process ID.

LMDB lets only one process of each PID read beside a writer, and the first process of every
container has PID 1. A fork has another PID, so it goes on, and its parent waits for it.

Example. A daemon runs as PID 1 of a container, and `docker run ... modelfs fsck` is PID 1 of
another one. Opening the index fails. The command forks; the child, PID 7, opens the index and
checks the store, and PID 1 ends with the child's exit code.
"""

import os
import signal
import sys
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGHUP)


def continue_in_child() -> None:
    """Return in a child. This process forwards signals to it, and ends with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = os.fork()
    if child:
        _wait_for(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def _wait_for(child: int) -> None:
    """End as a child does."""

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child, too
    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(128 - code if code < 0 else code)
