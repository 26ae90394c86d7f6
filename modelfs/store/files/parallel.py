"""Reads of many bytes on several threads, for callers that wait for all of the bytes.

Theory of operation. Decoding, checking and copying release Python's lock, so threads share the
work. The threads end with the read: starting one takes 50 us, and a thread that stayed would be in
the way of a fork. Runs of files and holes are divided into pieces; each thread does the next piece
until one fails.

No helper may write to the buffer after the read: the caller uses it for something else by then. So
the caller's thread waits for the helpers however often Ctrl-C interrupts it, and raises the first
error afterwards. It does not use `Thread.join` for that: up to CPython 3.12, an exception in `join`
marks a running thread as stopped.

Chunks stay in the cache of decoded chunks until others replace them, although a long read does not
need them again. Memory that is freed at once returns to the kernel, and getting it again for the
next chunk takes twice as long as decoding (for 1 GB, 1.3 s of CPU instead of 0.4).

Example. A read of 20 MiB is planned as 10 MiB of a pack and a chunk of 10 MiB. That makes four
pieces: 4, 4 and 2 MiB of the pack, and the chunk. On two processors, the caller's thread and one
helper do them. See docs/design/forks.md for the rules about forks and Ctrl-C.
"""

import contextlib
import os
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Iterator
from typing import Final

from modelfs.store.chunks.single_flight import EMPLOYERS
from modelfs.store.files.content import Contents
from modelfs.store.files.read_runs import FileRun, HoleRun, ReadRun, filled, parts

# Reads of fewer bytes take one thread.
PARALLEL_MIN: Final = 8 << 20
THREADS_MAX: Final = 4
# Long runs of a file, and of zeros, are divided.
PIECE: Final = 4 << 20
# The longest time until a child of a fork notices that it has no helpers.
WAIT_SECONDS: Final = 0.05


def gather(contents: Contents, runs: list[ReadRun]) -> bytes:
    """Read planned runs into new memory. Any thread; raises as `fill`."""
    size = sum(run.size for run in runs)
    if size < PARALLEL_MIN:
        return contents.gather(runs)
    return filled(size, lambda into: fill(contents, runs, into))


def fill(contents: Contents, runs: list[ReadRun], into: memoryview) -> None:
    """Read planned runs. Any thread.

    Raises:
        CorruptIndex, CorruptChunk, LostBytes, OSError: as `Contents.fill`.
    """
    if len(into) < PARALLEL_MIN:
        contents.fill(runs, into)
        return
    work = _Work(contents, runs, into)
    try:
        try:
            # Not all, if the system has no more threads: the caller's own does the rest.
            with contextlib.suppress(RuntimeError):
                for _ in range(_helpers()):
                    # Not `Thread.start`, which waits for the new thread. If a signal handler forks
                    # during that wait, the child waits for a thread that it does not have.
                    start_new_thread(work.help, ())
            work.run()
        except BaseException as exc:  # Ctrl-C, at any place
            work.errors.append(exc)
        finally:
            work.await_helpers()
    finally:
        # Once more: another interruption may have come between the lines above.
        work.await_helpers()
    if work.errors:
        raise work.errors[0]
    work.finish()


def _helpers() -> int:
    return min(THREADS_MAX, len(os.sched_getaffinity(0))) - 1


class _Work:
    """The pieces of a read. Each thread does the next one, until one fails."""

    def __init__(self, contents: Contents, runs: list[ReadRun], into: memoryview) -> None:
        self._contents = contents
        self._pieces = list(_pieces(runs, into))
        self._waiting = deque(range(len(self._pieces)))
        self._unfinished = set(self._waiting)
        self.errors: list[BaseException] = []
        self._process = os.getpid()
        self._employer = threading.get_ident()
        # The locks of helpers that run: each holds its own until it ends.
        self._helpers: dict[threading.Lock, None] = {}

    def help(self) -> None:
        """Do pieces on a thread that only helps."""
        lock = threading.Lock()
        lock.acquire()
        # Before the first piece: `await_helpers` has to see this helper, or this helper its error.
        self._helpers[lock] = None
        EMPLOYERS[threading.get_ident()] = self._employer
        try:
            self.run()
        finally:
            del EMPLOYERS[threading.get_ident()]
            del self._helpers[lock]
            lock.release()

    def run(self) -> None:
        while not self.errors:
            try:
                number = self._waiting.popleft()
            except IndexError:
                return
            try:
                self._fill(number)
            except BaseException as exc:
                self.errors.append(exc)

    def await_helpers(self) -> None:
        """Wait for the ends of all helpers; exceptions that interrupt that are among the errors.

        Helpers that start later find no piece, or an error, and do nothing.
        """
        while self._helpers and self._process == os.getpid():
            try:
                for lock in list(self._helpers):
                    # A signal handler may fork during the wait: the child has no helpers.
                    lock.acquire(timeout=WAIT_SECONDS)
            except BaseException as exc:
                self.errors.append(exc)

    def finish(self) -> None:
        """Do the pieces of threads that do not exist in this process: a signal handler forked."""
        for number in sorted(self._unfinished):
            self._fill(number)

    def _fill(self, number: int) -> None:
        run, part = self._pieces[number]
        self._contents.fill([run], part)
        self._unfinished.discard(number)


def _pieces(runs: list[ReadRun], into: memoryview) -> Iterator[tuple[ReadRun, memoryview]]:
    for run, part in parts(runs, into):
        for start in range(0, run.size, PIECE):
            size = min(PIECE, run.size - start)
            match run:
                case HoleRun(_, unchecked):
                    # The first piece checks the map for all.
                    yield HoleRun(size, None if start else unchecked), part[start : start + size]
                case FileRun():
                    yield run.part(start, size), part[start : start + size]
                case _:
                    yield run, part
                    break
