"""Continuing a command under another process ID.

LMDB lets only one process of each PID read beside a writer, and the first process of every
container has PID 1. A fork has another PID, so it goes on, and its parent waits for it.

The parent forwards signals. Those of a terminal's keys, such as Ctrl-C, are left out: the kernel
sends them to all processes of the command, so the child has them already.

Example. A daemon runs as PID 1 of a container, and `docker run ... modelfs fsck` is PID 1 of
another one. Opening the index fails. The command forks; the child, PID 7, opens the index and
checks the store, and PID 1 ends with the child's exit code. `docker kill -s INT` sends SIGINT to
PID 1, which sends it to the child.
"""

import os
import signal
import sys
from typing import Final

OF_KEYS: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
FORWARDED: Final = OF_KEYS | {signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
AWAITED: Final = FORWARDED | {signal.SIGCHLD}


def continue_in_child() -> None:
    """Return in a child. This process forwards signals to it, and ends with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Blocked signals wait, also for PID 1, which gets no others that it has no handlers for.
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    child = os.fork()
    if child:
        _wait_for(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)


def _wait_for(child: int) -> None:
    """End as a child does."""
    while True:
        received = signal.sigwaitinfo(AWAITED)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                os._exit(128 - code if code < 0 else code)
        elif received.si_signo not in OF_KEYS or received.si_code <= 0:  # above 0: of the kernel
            os.kill(child, received.si_signo)
