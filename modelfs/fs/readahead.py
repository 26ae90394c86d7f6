"""Reading ahead of a program that reads a file in order.

Its next chunks wait in a queue, from which threads verify or decode them while the event loop
answers from those before. It is filled up as the program goes on, so that the threads do not wait
for requests; and a request for a chunk that is in the queue, or under way, waits for that and takes
no thread of its own. One thread verifies plain chunks as fast as memory allows. Decoding takes two,
which take the next chunk in turn; each lets go of Python's lock while it computes.

A chunk that the program has left behind, and that no other file has, leaves the page cache: the
kernel has it by then, and the next one is decoded to the same memory. To find new memory for a
chunk takes as long as to decode it.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.boundary import silent
from modelfs.store.content import ChunkRun, Contents, Run
from modelfs.store.records import ChunkKind
from modelfs.store.tables import ChunkId, InodeNumber

log = logging.getLogger(__name__)

# The kernel's read-ahead sends several requests at once, a little out of order.
NEAR: Final = 4 << 20
# How far ahead of a sequential reader chunks are made ready, and in what portions they are planned.
AHEAD_MAX: Final = 24 << 20
AHEAD_STEP: Final = 8 << 20
DECODERS: Final = 2  # threads for one reader
# So many chunks are made ready before another reader's may have the thread.
TURN: Final = 8


@dataclass(slots=True)
class ReadAheadState:
    """What is known of the reader of an open file. The event loop's, but for the queue."""

    expected: int = 0  # where the next read of a sequential reader starts
    ready: int = 0  # up to where chunks were queued for it
    queue: deque[ChunkRun] = field(default_factory=deque)
    pending: set[ChunkId] = field(default_factory=set)  # in the queue, or under way
    threads: int = 0
    moved: trio.Event = field(default_factory=trio.Event)  # anew for each chunk
    passed: deque[tuple[int, ChunkRun]] = field(default_factory=deque)  # read, and where they end

    def expects(self, runs: Sequence[Run]) -> bool:
        """Whether one of the runs becomes ready by itself; until then `moved` is set each time."""
        return self.threads > 0 and any(
            isinstance(run, ChunkRun) and run.chunk in self.pending for run in runs
        )

    def restart(self, stop: int) -> None:
        """Expect the reader there."""
        self.expected = self.ready = stop
        self.passed.clear()
        self.drop_queue()

    def drop_queue(self) -> None:
        self.queue.clear()
        self.pending.clear()

    def tell(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


class ReadAhead:
    """Makes chunks ready for the readers of open files, and lets go of them."""

    def __init__(self, contents: Contents, nursery: trio.Nursery, threads: int) -> None:
        """Begin, with so many threads for all readers together."""
        self._contents = contents
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(threads)
        self._token = trio.lowlevel.current_trio_token()

    def follow(self, state: ReadAheadState, inode: InodeNumber, start: int, stop: int) -> None:
        """Take note of a read, and have made ready what comes next."""
        if not abs(start - state.expected) <= NEAR:
            state.restart(stop)
            return
        state.expected = max(state.expected, stop)
        state.ready = max(state.ready, stop)
        if state.ready - stop > AHEAD_MAX - AHEAD_STEP:
            return
        try:
            runs = self._contents.plan_ahead(inode, state.ready, AHEAD_STEP)
        except (ModelfsError, OSError) as exc:
            log.debug("read ahead: %s", exc)
            return
        state.ready += sum(run.size for run in runs)
        self._queue(state, [run for run in runs if isinstance(run, ChunkRun)])

    def _queue(self, state: ReadAheadState, runs: list[ChunkRun]) -> None:
        state.queue.extend(runs)
        state.pending.update(run.chunk for run in runs)
        coded = any(run.record.kind is not ChunkKind.PLAIN for run in runs)
        while runs and state.threads < (DECODERS if coded else 1):
            state.threads += 1
            self._nursery.start_soon(self._work, state)

    @silent  # a bug would end the nursery, and with it the mount
    async def _work(self, state: ReadAheadState) -> None:
        try:
            while state.queue:
                await trio.to_thread.run_sync(self._take_turn, state, limiter=self._limiter)
        finally:
            state.threads -= 1
            state.tell()

    def _take_turn(self, state: ReadAheadState) -> None:
        for _ in range(TURN):
            try:
                run = state.queue.popleft()
            except IndexError:
                return  # another thread took the last one
            good = False
            try:
                good = self._make_ready(run)
            finally:
                self._token.run_sync_soon(_done, state, run.chunk, good)
            if not good:
                return

    def _make_ready(self, run: ChunkRun) -> bool:
        try:
            self._contents.prepare(run)
        except (ModelfsError, OSError) as exc:
            # Nobody has asked for it yet; whoever does gets the error.
            log.debug("read ahead: %s", exc)
            return False
        return True

    def leave_behind(self, state: ReadAheadState, start: int, runs: Sequence[Run]) -> None:
        """Take note of what was read from `start` on; let go of what lies well behind that."""
        at = start
        for run in runs:
            at += run.size
            if isinstance(run, ChunkRun) and run.is_end:
                state.passed.append((at, run))
        while state.passed and state.passed[0][0] < start - NEAR:
            _, passed = state.passed.popleft()
            self._contents.let_go(passed)


def _done(state: ReadAheadState, chunk: ChunkId, good: bool) -> None:
    state.pending.discard(chunk)
    if not good:
        state.drop_queue()  # a disk that fails is not asked for more than it has to be
    state.tell()
