"""A gate that keeps LMDB's environments closed while the process forks.

Theory of operation. An environment must not be open across a fork(2). So the thread that forks
closes the gate, and closes the environments behind it; other threads then wait before they open
one. After the fork, parent and child open the gate.

An exception such as `KeyboardInterrupt` may come at any point of this, and CPython drops it: hooks
of a fork cannot prevent the fork. So closing is undone if it is interrupted, and may be repeated
until it succeeds. Opening is one call of C code, which no exception interrupts.

Example. Thread A forks: it closes the gate and waits for a transaction of thread B. Ctrl-C opens
the gate again; A repeats both. B's transaction ends, A closes the environment, and B waits at the
gate for its next one. After the fork, `open` lets B pass.

docs/design/forks.md has all rules about forks and Ctrl-C.
"""

from collections.abc import Callable
from threading import get_ident
from typing import Final

CLOSING: Final = "closing"
CLOSED: Final = "closed"


class ForkGate:
    """The gate of a process. Any thread."""

    def __init__(self) -> None:
        # The thread that closes the gate or has closed it. Between checks and changes below there
        # is no call, so neither another thread nor an exception comes in between.
        self._thread: dict[str, int] = {}
        self.open: Final = self._thread.clear

    def close(self, prepare: Callable[[], None]) -> bool:
        """Close the gate for other threads, and then call a function that prepares the fork.

        Returns:
            Whether that is done; False if another thread has the gate, or a signal handler has
            forked meanwhile. Then, and after an exception, nothing has changed.
        """
        thread = get_ident()
        try:
            if self._thread.setdefault(CLOSING, thread) != thread:
                return False
            prepare()
            if CLOSING not in self._thread:
                return False
            self._thread[CLOSED] = thread
        except BaseException:
            if CLOSING in self._thread and self._thread[CLOSING] == thread:
                self._thread.clear()
            raise
        return True

    def is_closed(self) -> bool:
        """Whether this thread has closed the gate."""
        return CLOSED in self._thread and self._thread[CLOSED] == get_ident()

    def blocks(self) -> bool:
        """Whether another thread closes the gate, or has closed it."""
        return self._thread.get(CLOSING, get_ident()) != get_ident()


# A fork concerns the whole process.
FORK_GATE: Final = ForkGate()
