"""Locks around short changes of memory that signal handlers and forked children need, too.

A signal handler, or `__del__` that the garbage collector calls, may run on the thread that holds
such a lock, so the lock is reentrant. A handler may also fork, and its child goes on with the call
although the thread that held a lock does not exist there: these locks are free in a child.

Both find the guarded data in the middle of a change. So the data have to be valid, or recognisably
invalid, after each instruction of a change.

Example. Thread A adds to a cache under its lock, and thread B waits for it. A signal handler on B
forks. In the child the lock is free, and B reads the cache there.

docs/design/forks.md has all rules about forks and Ctrl-C.
"""

import os
import threading
import weakref
from typing import Final

_locks: Final[weakref.WeakSet[threading.RLock]] = weakref.WeakSet()


def fork_lock() -> threading.RLock:
    """Return a reentrant lock that is free in a forked child, unless the forking thread has it."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _free_locks() -> None:
    for lock in list(_locks):
        if lock.acquire(blocking=False):
            lock.release()
        else:
            lock._at_fork_reinit()  # type: ignore[attr-defined]  # as in module `logging`


os.register_at_fork(after_in_child=_free_locks)
