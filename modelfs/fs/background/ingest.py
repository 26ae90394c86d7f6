"""BackgroundIngest: when staged content becomes chunks.

A file is due when its last writer closed it and it was quiet for `QUIET_SECONDS`; a long one is
taken early, window by window, while it is still being written. Files that are due together share
one flush of the packs. What fails stays staged and is tried again, each file alone.
"""

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.pack_lock import PackLock
from modelfs.fs.handles import Handles
from modelfs.jobs.ingest.worker import Pass, Step
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.files.staging import WINDOW, StagedFile
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

QUIET_SECONDS: Final = 1.0  # clients close and open again, and rename, within moments
RETRY_SECONDS: Final = 10.0
# A file that is still being written is ingested from this many whole windows on.
EARLY_WINDOWS: Final = 4
# Files ingested together share one flush of the packs. Not more, since what is planned for each is
# in memory: some 700 bytes for a tensor, of which 16 MiB may have 100,000.
ROUND_FILES: Final = 256
ROUND_BYTES: Final = 16 << 20
# Past this many files waiting for ingest, whoever creates one more waits for a round of it.
PENDING_MAX: Final = 8192
THROTTLE_SECONDS: Final = 0.5
# How often a sync cuts the same file anew; once is usual, for a data file and its model.
SETTLE_MAX: Final = 3


class BackgroundIngest:
    """Takes what was written into chunks when it is due."""

    def __init__(
        self,
        store: Store,
        handles: Handles,
        workers: trio.CapacityLimiter,
        durability: Durability,
        pack_lock: PackLock,
    ) -> None:
        self._store = store
        self._handles = handles
        self._workers = workers
        self._durability = durability
        self._pack_lock = pack_lock
        self._due: dict[InodeNumber, float] = {}
        self._untold: set[InodeNumber] = set()  # not to be tried early again
        self._early: set[InodeNumber] = set()
        self._suspects: set[InodeNumber] = set()  # in a batch that failed; tried alone next time
        self._drained = trio.Event()

    # -- what others tell

    async def before_create(self) -> None:
        """Wait a little while too many files wait for ingest."""
        if len(self._due) > PENDING_MAX:
            # Not for ever: ingest may have no room, and whoever creates may have to close first.
            with trio.move_on_after(THROTTLE_SECONDS):
                await self._drained.wait()

    def wrote(self, inode: InodeNumber, start: int, stop: int) -> None:
        """Note a write; a long file is ingested before it is closed."""
        if start // WINDOW == stop // WINDOW or inode in self._untold:
            return
        staged = self._store.staging.find(inode)
        if staged is not None and _full_windows(staged) >= EARLY_WINDOWS:
            self._early.add(inode)

    def closed(self, inode: InodeNumber) -> None:
        """Note that the last writer closed a file."""
        self._untold.discard(inode)
        if self._store.staging.find(inode) is None:
            return
        self._due[inode] = trio.current_time() + QUIET_SECONDS

    def start(self) -> None:
        """Queue what an earlier run of the daemon left to do."""
        now = trio.current_time()
        self._due.update((inode, now) for inode in self._store.pending())

    def forget(self, inode: InodeNumber) -> None:
        """Note that an inode is about to be removed."""
        self._due.pop(inode, None)
        self._suspects.discard(inode)
        self._untold.discard(inode)
        self._drain()

    def _drain(self) -> None:
        self._drained.set()
        self._drained = trio.Event()

    # -- on request

    async def settle(self, progress: Callable[[int, int], Awaitable[None]] | None = None) -> None:
        """Make everything written so far durable, and take it into chunks.

        Raises:
            OSError: of the first file that this failed for; it is done for all others.
        """
        failures: dict[InodeNumber, ModelfsError | OSError] = {}
        pending = self._store.pending()
        done: set[InodeNumber] = set()
        rounds: Counter[InodeNumber] = Counter()
        while pending:
            while pending:
                batch = self._round(pending)
                pending = pending[len(batch) :]
                failures.update(await self._ingest_apart(batch))
                done.update(batch)
                if progress is not None:
                    await progress(len(done), len(done) + len(pending))
            # A model may have asked for its data file to be cut anew. What is still being
            # written to is not waited for a second time.
            again = [each for each in self._store.intake.requested() if rounds[each] < SETTLE_MAX]
            rounds.update(again)
            pending = again or [each for each in self._store.pending() if each not in done]
        try:
            await self._durability.flush_all()
        finally:
            await self._durability.commit()
        if failures:
            raise self._told(failures)

    async def _ingest_apart(
        self, batch: list[InodeNumber]
    ) -> dict[InodeNumber, ModelfsError | OSError]:
        """Ingest files, each alone if it fails for all, and return what failed and why."""
        try:
            await self.ingest(batch, complete=True)
        except (ModelfsError, OSError) as exc:
            if len(batch) == 1:
                return {batch[0]: exc}
        else:
            return {}
        failures: dict[InodeNumber, ModelfsError | OSError] = {}
        for inode in batch:
            failures.update(await self._ingest_apart([inode]))
        return failures

    def _told(self, failures: dict[InodeNumber, ModelfsError | OSError]) -> OSError:
        inode, problem = next(iter(failures.items()))
        name = os.fsdecode(self._store.namespace.path_of(inode))
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        what = problem.strerror if isinstance(problem, OSError) else str(problem)
        return OSError(problem.errno, f"not in chunks yet: {name}{more}: {what}")

    # -- ingest

    async def ingest(self, inodes: list[InodeNumber], *, complete: bool) -> None:
        """Take the staged content of some files into chunks.

        Raises:
            StoreFull, OSError: no room, or the disk failed; all of it is still staged.
        """
        async with self._pack_lock.append():
            walks = [walk for each in inodes if (walk := await self._begin(each, complete))]
            while walks:
                walks = await self._advance(walks)

    async def _begin(self, inode: InodeNumber, complete: bool) -> Pass | None:
        await self._durability.pause()
        staged = self._store.staging.find(inode)
        if self._store.inodes.find(inode) is None or (staged is not None and staged.failed):
            return None
        while not self._store.intake.trim(inode):
            await self._durability.pause()
        return self._store.intake.begin_pass(inode, complete=complete)

    async def _advance(self, walks: list[Pass]) -> list[Pass]:
        """Do one step of each walk, and return the walks that have more to do."""
        steps: list[Step] = []
        ended: list[Pass] = []
        for walk in walks:
            await self._durability.pause()
            step = self._store.intake.begin_step(walk)
            if step is None:
                ended.append(walk)
            else:
                steps.append(step)
        told = await self._run_steps(steps)
        for step in told:
            while not self._store.intake.finish_step(step):
                await self._durability.pause()
            await self._durability.pause()
        for walk in ended:
            await self._end(walk)
            self._drain()
            await self._durability.pause()
        return [step.walk for step in told if not step.walk.done]

    async def _run_steps(self, steps: list[Step]) -> list[Step]:
        if not steps:
            return []
        with self._store.writing() as writer:
            told, written = await trio.to_thread.run_sync(
                self._work, steps, writer, limiter=self._workers
            )
        while not self._store.intake.publish(written):
            await self._durability.pause()
        inodes = {step.walk.inode for step in steps}
        self._untold.update(inodes - {step.walk.inode for step in told})
        return told

    def _work(self, steps: list[Step], writer: ChunkWriter) -> tuple[list[Step], WriteResult]:
        told = [step for step in steps if self._store.ingest.run(step, writer)]
        return told, writer.finish()

    async def _end(self, walk: Pass) -> None:
        if walk.layout is None and self._store.inodes.find(walk.inode) is not None:
            frozen = self._store.contents.snapshot(walk.inode)
            await trio.to_thread.run_sync(
                self._store.ingest.plan_empty, walk, frozen, limiter=self._workers
            )
        while not self._store.intake.note_tensors(walk):
            await self._durability.pause()
        self._store.intake.end_pass(walk)

    # -- when due

    async def ingest_due(self) -> None:
        """Ingest every file that is due."""
        self._due.update(
            (inode, 0.0) for inode in self._store.intake.requested() if inode not in self._due
        )
        # What was opened for writing again becomes due when it is closed again.
        for inode in [each for each in self._due if self._handles.being_written(each)]:
            del self._due[inode]
        while batch := self._next_batch():
            try:
                await self.ingest(batch, complete=True)
            except Exception:
                retry = trio.current_time() + RETRY_SECONDS
                self._due.update(dict.fromkeys(batch, retry))
                self._suspects.update(batch)
                raise
            self._suspects.difference_update(batch)
        while self._early:
            await self.ingest([self._early.pop()], complete=False)

    def _next_batch(self) -> list[InodeNumber]:
        now = trio.current_time()
        due = [inode for inode, when in self._due.items() if when <= now]
        if due and due[0] in self._suspects:
            batch = due[:1]
        else:
            batch = self._round([inode for inode in due if inode not in self._suspects])
        for inode in batch:
            del self._due[inode]
        return batch

    def _round(self, inodes: list[InodeNumber]) -> list[InodeNumber]:
        """Return as many of the first files as are ingested together."""
        size = 0
        for count, inode in enumerate(inodes[:ROUND_FILES], 1):
            staged = self._store.staging.find(inode)
            size += 0 if staged is None else staged.staged_bytes
            if size > ROUND_BYTES:
                return inodes[:count]
        return inodes[:ROUND_FILES]


def _full_windows(staged: StagedFile) -> int:
    return sum(window.full for window in staged.windows.values())
