"""Ingest beside the requests: when staged content becomes chunks.

A file is due when its last writer closed it and it was quiet for `QUIET_SECONDS`; a long one is
ingested early, window by window, while it is still being written. Files that are due together make
one round. Files that fail stay staged and are tried again, each alone.

Example. `cp` writes a model of 700 MiB. From four whole windows of 64 MiB on it is ingested early,
a few windows every quarter of a second. One second after `cp` has closed it, a complete pass takes
the rest and records the layout.
"""

import math
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from modelfs.fs.background.context import Context
from modelfs.fs.changed import Changed
from modelfs.jobs.ingest.job import Failures, Ingest, round_of
from modelfs.jobs.steps import Job
from modelfs.store.files.staged_file import WINDOW, StagedFile
from modelfs.store.index.tables import InodeNumber

QUIET_SECONDS: Final = 1.0  # clients close and open again, and rename, within moments
RETRY_SECONDS: Final = 10.0
# A file that is still being written is ingested from this many whole windows on.
EARLY_WINDOWS: Final = 4
# While more files wait for ingest, a program that creates one more waits for one to be done.
PENDING_MAX: Final = 8192
THROTTLE_SECONDS: Final = 0.5
# How often a sync cuts the same file anew; once is usual, for a data file and its model.
RECUTS_MAX: Final = 3

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    """What a file waits for."""

    due: float = math.inf  # trio's time of a complete pass; infinite while it is being written
    early: bool = False  # whole windows are to be taken while it is being written
    unrecognised: bool = False  # its layout shows when it is complete: not early again
    alone: bool = False  # a round that it was in failed


class BackgroundIngest:
    """Takes what was written into chunks when it is due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._ingest = Ingest(context.store)
        self._waiting: dict[InodeNumber, _Waiting] = {}
        self._drained = Changed()

    # -- what requests report

    async def before_create(self) -> None:
        """Wait a little while too many files wait for ingest."""
        if len(self._waiting) > PENDING_MAX:
            # Not for ever: ingest may have no room, and the program may have to close files first.
            with trio.move_on_after(THROTTLE_SECONDS):
                await self._drained.wait()

    def wrote(self, inode: InodeNumber, start: int, stop: int) -> None:
        """Note a write; a long file is ingested before it is closed."""
        if start // WINDOW == stop // WINDOW:
            return
        waiting = self._waiting.get(inode)
        if waiting is not None and waiting.unrecognised:
            return
        staged = self._store.staging.find(inode)
        if staged is not None and _full_windows(staged) >= EARLY_WINDOWS:
            self._file(inode).early = True

    def closed(self, inode: InodeNumber) -> None:
        """Note that the last writer closed a file."""
        if self._store.staging.find(inode) is None:
            self._waiting.pop(inode, None)
            return
        waiting = self._file(inode)
        waiting.due = trio.current_time() + QUIET_SECONDS
        waiting.unrecognised = False

    def start(self) -> None:
        """Queue what an earlier run of the daemon left to do."""
        for inode in self._store.pending():
            self._file(inode).due = trio.current_time()

    def forget(self, inode: InodeNumber) -> None:
        """Note that an inode is about to be removed."""
        self._waiting.pop(inode, None)
        self._drained.notify()

    def _file(self, inode: InodeNumber) -> _Waiting:
        return self._waiting.setdefault(inode, _Waiting())

    # -- on request

    async def sync(self, progress: Callable[[int, int], Awaitable[None]] | None = None) -> None:
        """Make everything written so far durable, and take it into chunks.

        Raises:
            OSError: of the first file that this failed for; it is done for all others.
        """
        failures: Failures = {}
        done: set[InodeNumber] = set()
        cuts: Counter[InodeNumber] = Counter()
        pending = self._store.pending()
        while pending:
            while pending:
                inodes = round_of(self._store, pending)
                pending = pending[len(inodes) :]
                failures |= await self._run(
                    self._ingest.ingest_apart(inodes, done=self._drained.notify)
                )
                done.update(inodes)
                if progress is not None:
                    await progress(len(done), len(done) + len(pending))
            # A model may have asked for its data file to be cut anew. What is still being
            # written to is not waited for a second time.
            again = [inode for inode in self._store.requested() if cuts[inode] < RECUTS_MAX]
            cuts.update(again)
            pending = again or [inode for inode in self._store.pending() if inode not in done]
        try:
            await self._context.durability.flush_all()
        finally:
            await self._context.durability.commit()
        if failures:
            raise self._error(failures)

    def _error(self, failures: Failures) -> OSError:
        inode, problem = next(iter(failures.items()))
        name = os.fsdecode(self._store.namespace.path_of(inode))
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        what = problem.strerror if isinstance(problem, OSError) else str(problem)
        return OSError(problem.errno, f"not in chunks yet: {name}{more}: {what}")

    # -- when due

    async def ingest(self, inodes: Sequence[InodeNumber], *, complete: bool) -> None:
        """Take the staged content of some files into chunks.

        Raises:
            StoreFull, OSError: no room, or the disk failed; what is not in chunks is still staged.
        """
        await self._run(self._ingest.ingest(inodes, complete=complete, done=self._drained.notify))

    async def _run(self, job: Job[T]) -> T:
        async with self._context.pack_lock.append():
            result = await self._context.driver.run(job)
        for inode in self._ingest.unrecognised:
            if self._context.handles.being_written(inode):
                self._file(inode).unrecognised = True
        self._ingest.unrecognised.clear()
        return result

    async def ingest_due(self) -> None:
        """Ingest every file that is due."""
        self._list_due()
        while batch := self._next_batch():
            try:
                await self.ingest(batch, complete=True)
            except Exception:
                retry = trio.current_time() + RETRY_SECONDS
                for inode in batch:
                    self._file(inode).due = retry
                    self._file(inode).alone = True
                raise
        while (early := self._next_early()) is not None:
            await self.ingest([early], complete=False)

    def _list_due(self) -> None:
        for inode in self._store.requested():
            if self._file(inode).due == math.inf:
                self._file(inode).due = 0.0
        for inode, waiting in self._waiting.items():
            # A file that was opened for writing again becomes due when it is closed again.
            if self._context.handles.being_written(inode):
                waiting.due = math.inf

    def _next_batch(self) -> Sequence[InodeNumber]:
        now = trio.current_time()
        due = [inode for inode, waiting in self._waiting.items() if waiting.due <= now]
        if due and self._waiting[due[0]].alone:
            batch: Sequence[InodeNumber] = due[:1]
        else:
            together = [inode for inode in due if not self._waiting[inode].alone]
            batch = round_of(self._store, together)
        for inode in batch:
            del self._waiting[inode]
        return batch

    def _next_early(self) -> InodeNumber | None:
        for inode, waiting in self._waiting.items():
            if waiting.early:
                waiting.early = False
                return inode
        return None


def _full_windows(staged: StagedFile) -> int:
    return sum(window.full for window in staged.windows.values())
