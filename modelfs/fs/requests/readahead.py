"""Reading ahead of a program that reads a file in order.

Its next chunks wait in a queue, from which threads verify or decode them while the event loop
answers from those before. It is filled up as the program goes on, so that the threads do not wait
for requests; and a request for a chunk that a thread is about to come to waits for that, and takes
no thread of its own. One thread verifies plain chunks as fast as memory allows. Decoding takes two,
which take the next chunk in turn; each lets go of Python's lock while it computes. Readers take
turns with the threads that there are, and a request does not wait for its reader's turn.

A chunk that the program has left behind, and that no other extent has, leaves the page cache: the
kernel has it by then, and the next one is decoded to the same memory. To find new memory for a
chunk takes as long as to decode it.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.handles import ReadAheadState
from modelfs.fs.requests.boundary import silent
from modelfs.store.files.content import ChunkRun, Contents, ReadRun
from modelfs.store.index.records import ChunkKind
from modelfs.store.index.tables import ChunkId, InodeNumber

log = logging.getLogger(__name__)

# The kernel's read-ahead sends several requests at once, a little out of order.
NEAR: Final = 4 << 20
# How far ahead of a sequential reader chunks are made ready, and in what portions they are planned.
AHEAD_MAX: Final = 24 << 20
AHEAD_STEP: Final = 8 << 20
# The first portion: many a program reads a header and nothing more.
AHEAD_FIRST: Final = 2 << 20
DECODERS: Final = 2  # threads for one reader
# So many chunks are made ready before another reader's may have the thread.
TURN: Final = 8


class ReadAhead:
    """Makes chunks ready for the readers of open files, and lets go of them."""

    def __init__(
        self, contents: Contents, nursery: trio.Nursery, threads: int, memory: int
    ) -> None:
        """Begin.

        Args:
            contents: of the files.
            nursery: for the tasks that see to queues.
            threads: for all readers together.
            memory: bytes that the page cache of decoded chunks holds.
        """
        self._contents = contents
        self._memory = memory
        self._nursery = nursery
        self._turns = trio.CapacityLimiter(threads)
        self._threads = trio.CapacityLimiter(math.inf)  # there are as many as there are turns
        self._token = trio.lowlevel.current_trio_token()

    async def wait(self, state: ReadAheadState, runs: Sequence[ReadRun]) -> bool:
        """Wait for the runs that are about to become ready, and say whether there were any."""
        chunks = [run for run in runs if isinstance(run, ChunkRun)]
        waited = False
        while any(state.expects(run) and not self._contents.is_ready(run) for run in chunks):
            waited = True
            await state.changed.wait()
        return waited

    def follow(self, state: ReadAheadState, inode: InodeNumber, start: int, stop: int) -> None:
        """Take note of a read, and have made ready what comes next."""
        if not abs(start - state.expected) <= NEAR:
            state.restart(stop)
            return
        state.expected = max(state.expected, stop)
        state.ready = max(state.ready, stop)
        # What is made ready beyond what the cache holds is made a second time.
        most = min(AHEAD_MAX, self._memory // 2)
        step = min(AHEAD_STEP, most // 3)
        if not step or state.ready - stop > most - step:
            return
        try:
            size = step if start else min(AHEAD_FIRST, step)
            runs = self._contents.plan_ahead(inode, state.ready, size)
        except (ModelfsError, OSError) as exc:
            log.debug("read ahead: %s", exc)
            return
        state.ready += sum(run.size for run in runs)
        chunks = [run for run in runs if isinstance(run, ChunkRun)]
        self._queue(state, [run for run in chunks if not self._contents.is_ready(run)])

    def _queue(self, state: ReadAheadState, runs: list[ChunkRun]) -> None:
        state.queue.extend(runs)
        state.pending.update(run.chunk for run in runs)
        coded = any(run.record.kind is not ChunkKind.PLAIN for run in runs)
        while runs and state.tasks < (DECODERS if coded else 1):
            state.tasks += 1
            self._nursery.start_soon(self._work, state)

    @silent  # a bug would end the nursery, and with it the mount
    async def _work(self, state: ReadAheadState) -> None:
        try:
            while state.queue:
                async with self._turns:
                    await self._take_turns(state)
        finally:
            state.tasks -= 1

    async def _take_turns(self, state: ReadAheadState) -> None:
        # One after the other, unless somebody else waits for one.
        state.turns += 1
        try:
            while state.queue:
                await trio.to_thread.run_sync(self._take_turn, state, limiter=self._threads)
                if self._turns.statistics().tasks_waiting:
                    return
        finally:
            state.turns -= 1
            state.changed.notify()

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
            self._contents.warm(run)
        except (ModelfsError, OSError) as exc:
            # Nobody has asked for it yet; whoever does gets the error.
            log.debug("read ahead: %s", exc)
            return False
        return True

    def leave_behind(self, state: ReadAheadState, start: int, runs: Sequence[ReadRun]) -> None:
        """Take note of what was read from `start` on; let go of what lies well behind that."""
        if start < state.expected - 2 * NEAR or start > state.expected:
            return  # the reader went elsewhere meanwhile
        at = start
        for run in runs:
            at += run.size
            if isinstance(run, ChunkRun) and run.is_end:
                state.passed[run.chunk] = at, run
        for chunk, (stop, run) in list(state.passed.items()):
            if stop >= start - NEAR:
                return
            del state.passed[chunk]
            self._contents.evict(run)


def _done(state: ReadAheadState, chunk: ChunkId, good: bool) -> None:
    state.pending.discard(chunk)
    state.changed.notify()
    if not good:
        state.drop_queue()  # a disk that fails is not asked for more than it has to be
