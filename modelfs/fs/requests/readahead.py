"""Read-ahead: chunks are made ready before a program that reads a file in order asks for them.

Theory of operation. Each open file has a queue of the chunks that follow its reader. Threads pop
chunks from it and verify or decode them, while the event loop answers from the chunks before. Each
read fills the queue up, so threads do not wait for requests. A request for a chunk that a thread
works on, or will soon, waits for that thread and does not use another.

One thread verifies plain chunks as fast as memory allows. Decoding takes two threads, which pop in
turn; each releases Python's lock while it computes. Readers share the threads in turns, and a
request does not wait for its reader's turn.

A chunk that the program has read to its end, and that no other extent uses, leaves the cache of
decoded chunks: the kernel has its bytes by then, and the next chunk is decoded into its memory. To
get new memory for a chunk takes as long as to decode it.

Example. A program reads a file of coded chunks of 1 MiB from its start, 1 MiB at a time. The first
read decodes chunk 0 on a thread of its own and queues chunks 1 and 2, for which two tasks start.
The second read finds chunk 1 ready, or waits for the thread that decodes it, and queues eight
chunks more. From then on up to 24 chunks are ready or queued ahead of the reader. When it comes to
chunk 6, chunk 0 leaves the cache.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.handles import ReadAheadState
from modelfs.fs.requests.boundary import silent
from modelfs.store.files.content import Contents
from modelfs.store.files.read_runs import ChunkRun, ReadRun
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# A read this close to the expected offset is still sequential: the kernel's own read-ahead sends
# several requests at once, a little out of order.
NEAR: Final = 4 << 20
# How far ahead of a reader chunks are queued, and in which portions. The first portion is small,
# because many programs read a header and nothing more.
AHEAD_MAX: Final = 24 << 20
AHEAD_STEP: Final = 8 << 20
AHEAD_FIRST: Final = 2 << 20
DECODERS: Final = 2  # threads for one reader
# A reader's turn with a thread is this many chunks.
TURN: Final = 8


class ReadAhead:
    """Makes chunks ready for the readers of open files, and evicts chunks behind them."""

    def __init__(
        self, contents: Contents, nursery: trio.Nursery, threads: int, memory: int
    ) -> None:
        """Create the read-ahead of a mount.

        Args:
            contents: of the files.
            nursery: for the tasks that work on queues.
            threads: for all readers together.
            memory: capacity of the cache of decoded chunks, in bytes.
        """
        self._contents = contents
        self._memory = memory
        self._nursery = nursery
        self._turns = trio.CapacityLimiter(threads)
        self._threads = trio.CapacityLimiter(math.inf)  # `_turns` limits them
        self._token = trio.lowlevel.current_trio_token()

    async def wait(self, state: ReadAheadState, runs: Sequence[ReadRun]) -> bool:
        """Wait for those of the runs that are about to become ready; return whether any were."""
        chunks = [run for run in runs if isinstance(run, ChunkRun)]
        waited = False
        while any(state.is_coming(run) and not self._contents.is_ready(run) for run in chunks):
            waited = True
            await state.changed.wait()
        return waited

    def follow(self, state: ReadAheadState, inode: InodeNumber, start: int, stop: int) -> None:
        """Note a read of the bytes `[start, stop)`, and queue the chunks that follow."""
        if not abs(start - state.next_offset) <= NEAR:
            state.restart(stop)
            return
        state.next_offset = max(state.next_offset, stop)
        state.queued_to = max(state.queued_to, stop)
        # The cache would evict chunks further ahead than this before they are read.
        ahead_max = min(AHEAD_MAX, self._memory // 2)
        step = min(AHEAD_STEP, ahead_max // 3)
        if not step or state.queued_to - stop > ahead_max - step:
            return
        try:
            size = step if start else min(AHEAD_FIRST, step)
            runs = self._contents.plan_ahead(inode, state.queued_to, size)
        except (ModelfsError, OSError) as exc:
            log.debug("read-ahead: %s", exc)
            return
        state.queued_to += sum(run.size for run in runs)
        chunks = [run for run in runs if isinstance(run, ChunkRun)]
        chunks = [run for run in chunks if not self._contents.is_ready(run)]
        state.queue.extend(chunks)
        state.pending.update(run.chunk for run in chunks)
        coded = any(run.record.kind is not ChunkKind.PLAIN for run in chunks)
        while chunks and state.tasks < (DECODERS if coded else 1):
            state.tasks += 1
            self._nursery.start_soon(self._work_on_queue, state)

    @silent  # a bug would end the nursery, and with it the mount
    async def _work_on_queue(self, state: ReadAheadState) -> None:
        """Make a reader's queued chunks ready, in turns with the tasks of other readers."""
        try:
            while state.queue:
                async with self._turns:
                    state.running += 1
                    try:
                        while state.queue:
                            await trio.to_thread.run_sync(
                                self._take_turn, state, limiter=self._threads
                            )
                            if self._turns.statistics().tasks_waiting:
                                break
                    finally:
                        state.running -= 1
                        state.changed.notify()
        finally:
            state.tasks -= 1

    def _take_turn(self, state: ReadAheadState) -> None:
        """Make the next `TURN` chunks of a queue ready. Runs on a thread."""
        for _ in range(TURN):
            try:
                run = state.queue.popleft()
            except IndexError:
                return  # another thread took the last one
            succeeded = False
            try:
                self._contents.warm(run)
                succeeded = True
            except (ModelfsError, OSError) as exc:
                # A request for this chunk, if one comes, fails with the same error.
                log.debug("read-ahead: %s", exc)
            finally:
                self._token.run_sync_soon(state.finish, run.chunk, succeeded)
            if not succeeded:
                return

    def leave_behind(self, state: ReadAheadState, start: int, runs: Sequence[ReadRun]) -> None:
        """Note the runs that were read from `start` on, and evict chunks well behind them."""
        if start < state.next_offset - 2 * NEAR or start > state.next_offset:
            return  # the reader jumped meanwhile
        stop = start
        for run in runs:
            stop += run.size
            if isinstance(run, ChunkRun) and run.is_end:
                state.passed[run.chunk] = stop, run
        for chunk, (chunk_end, run) in list(state.passed.items()):
            if chunk_end >= start - NEAR:
                return
            del state.passed[chunk]
            self._contents.evict(run)
