"""Reads of many bytes on several threads, for callers that wait for all of the bytes.

Theory of operation. Decoding, checking and copying release Python's lock, so threads share the
work. The threads end with the read: starting one takes 50 us, and a thread that stayed would be in
the way of a fork. Runs of files and holes are divided into pieces; each thread does the next piece
until one fails.

Chunks stay in the cache of decoded chunks until others replace them, although a long read does not
need them again. Memory that is freed at once returns to the kernel, and getting it again for the
next chunk takes twice as long as decoding (for 1 GB, 1.3 s of CPU instead of 0.4).

Example. A read of 20 MiB is planned as 10 MiB of a pack and a chunk of 10 MiB. That makes four
pieces: 4, 4 and 2 MiB of the pack, and the chunk. On two processors, the caller's thread and one
helper do them.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

from modelfs.store.files.content import Contents, FileRun, HoleRun, ReadRun, filled

# Reads of fewer bytes take one thread.
PARALLEL_MIN: Final = 8 << 20
THREADS_MAX: Final = 4
# Long runs of a file, and of zeros, are divided.
PIECE: Final = 4 << 20


def gather(contents: Contents, runs: list[ReadRun]) -> bytes:
    """Read planned runs into new memory. Any thread; raises as `fill`."""
    size = sum(run.size for run in runs)
    if size < PARALLEL_MIN:
        return contents.gather(runs)
    return filled(size, lambda into: fill(contents, runs, into))


def fill(contents: Contents, runs: list[ReadRun], into: memoryview) -> None:
    """Read planned runs. Any thread.

    Raises:
        CorruptChunk: a chunk is damaged or missing.
        OSError: the backing disk failed.
    """
    if len(into) < PARALLEL_MIN:
        contents.fill(runs, into)
        return
    work = _Work(contents, runs, into)
    helpers = [threading.Thread(target=work.run, daemon=True) for _ in range(_processors() - 1)]
    try:
        _start(helpers)
        work.run()
        _join(helpers)
        work.finish()
    except BaseException as exc:  # Ctrl-C, at any place
        work.errors.append(exc)
        _join(helpers)  # each ends its piece; then nothing writes to the buffer any more
    if work.errors:
        raise work.errors[0]


def _processors() -> int:
    return min(THREADS_MAX, len(os.sched_getaffinity(0)))


def _start(threads: list[threading.Thread]) -> None:
    # Not all, if the system has no more threads: the caller's own does the rest.
    with contextlib.suppress(RuntimeError):
        for thread in threads:
            thread.start()


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        if thread.is_alive():
            thread.join()


class _Work:
    """The pieces of a read. Each thread does the next one, until one fails."""

    def __init__(self, contents: Contents, runs: list[ReadRun], into: memoryview) -> None:
        self._contents = contents
        self._pieces = list(_pieces(runs, into))
        self._waiting = deque(range(len(self._pieces)))
        self._unfinished = set(self._waiting)
        self.errors: list[BaseException] = []

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

    def finish(self) -> None:
        """Do the pieces of threads that do not exist in this process: a signal handler forked."""
        for number in [] if self.errors else sorted(self._unfinished):
            self._fill(number)

    def _fill(self, number: int) -> None:
        run, part = self._pieces[number]
        self._contents.fill([run], part)
        self._unfinished.discard(number)


def _pieces(runs: list[ReadRun], into: memoryview) -> Iterator[tuple[ReadRun, memoryview]]:
    at = 0
    for run in runs:
        for start in range(0, run.size, PIECE):
            size = min(PIECE, run.size - start)
            match run:
                case HoleRun():
                    yield HoleRun(size), into[at + start : at + start + size]
                case FileRun(file, offset, _):
                    yield FileRun(file, offset + start, size), into[at + start : at + start + size]
                case _:
                    yield run, into[at : at + run.size]
                    break
        at += run.size
