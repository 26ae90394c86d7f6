"""Ingest beside the requests: staged content becomes chunks.

A file is due when its last writer has closed it and it was quiet for `QUIET_SECONDS`. A long file
is also ingested early, window by window, while it is still being written. Files that are due at the
same time are ingested in one round. If a round fails, its files stay staged and are tried again,
each alone.

Example. `cp` writes a model of 700 MiB. From four whole windows of 64 MiB on it is ingested early,
a few windows every quarter of a second. One second after `cp` has closed it, a complete pass
ingests the rest and records the layout.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from modelfs.errors import StoreFull
from modelfs.fs.background.context import AsyncProgress, Context
from modelfs.fs.changed import Changed
from modelfs.jobs.ingest.job import (
    REQUESTS_PAGE,
    Failures,
    Ingest,
    raise_first,
    round_of,
    sync_rounds,
)
from modelfs.store.files.window import WINDOW
from modelfs.store.index.tables import InodeNumber

QUIET_SECONDS: Final = 1.0  # programs close, open again and rename within moments
ROUND_RETRY_SECONDS: Final = 10.0
# A file that a program has mapped and closed is looked at so often: whether the mapping is gone.
LIVE_RETRY_SECONDS: Final = 1.0
# The kernel closes the staging file of a passed file a moment after the program has closed its own.
CLOSE_SECONDS: Final = 0.02
CLOSE_TRIES: Final = 5
# A file that is still being written is ingested from this many whole windows on.
EARLY_WINDOWS: Final = 4
# While more files than this wait for ingest, each create waits until one of them is done.
PENDING_MAX: Final = 8192
THROTTLE_SECONDS: Final = 0.5


@dataclass(slots=True)
class _Queued:
    """The state of a file that waits for ingest."""

    due: float = math.inf  # trio's time of a complete pass; infinite while it is being written
    early: bool = False  # its whole windows are ingested while it is being written
    unrecognised: bool = False  # its format cannot be recognised yet, so it is not ingested early
    alone: bool = False  # an earlier round with it failed


class BackgroundIngest:
    """Ingests files when they are due, or when a sync asks for all of them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._ingest = Ingest(context.store)
        self._waiting: dict[InodeNumber, _Queued] = {}
        self._next_request = 0  # the lowest inode of the next page of requests
        self._drained = Changed()

    # -- events of requests

    async def before_create(self) -> None:
        """Wait a little if too many files wait for ingest."""
        if len(self._waiting) > PENDING_MAX:
            # Not for ever: ingest may have no room, or the program may have to close files first.
            with trio.move_on_after(THROTTLE_SECONDS):
                await self._drained.wait()

    def wrote(self, inode: InodeNumber, start: int, stop: int) -> None:
        """Note a write of the bytes `[start, stop)`; a long file is ingested before its close."""
        if start // WINDOW == stop // WINDOW:
            return
        waiting = self._waiting.get(inode)
        if waiting is not None and waiting.unrecognised:
            return
        staged = self._store.staging.find(inode)
        if staged is not None:
            full_windows = sum(window.full for window in staged.windows.values())
            if full_windows >= EARLY_WINDOWS:
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
        """Queue the staged files of an earlier run of the daemon; its requests are in the index."""
        for staged in self._store.staging:
            self._file(staged.inode).due = trio.current_time()

    def forget(self, inode: InodeNumber) -> None:
        """Note that an inode is about to be removed."""
        self._waiting.pop(inode, None)
        self._drained.notify()

    def _file(self, inode: InodeNumber) -> _Queued:
        return self._waiting.setdefault(inode, _Queued())

    # -- the sync command

    async def sync(self, progress: AsyncProgress | None = None) -> None:
        """Ingest everything that was written so far, and make it durable.

        Args:
            progress: called with how many files are done, and how many there are.

        Raises:
            OSError: of the first file that failed; all others are ingested.
        """
        failures: Failures = {}
        for inodes, done, total in sync_rounds(self._store):
            ingesting = self._ingest.ingest_apart(inodes, done=self._drained.notify)
            failures |= await self._context.driver.run(ingesting)
            if progress is not None:
                await progress(done, total)
        failures |= await self._ingest_closed()
        try:
            await self._context.durability.flush_all()
        finally:
            await self._context.durability.commit()
        raise_first(self._store, failures)

    async def _ingest_closed(self) -> Failures:
        """Ingest files that a program has closed, and the kernel a moment later.

        A file that is mapped stays staged.
        """
        failures: Failures = {}
        is_open, is_live = self._context.handles.is_open_for_writing, self._store.contents.is_live
        for _ in range(CLOSE_TRIES):
            staged = [staged.inode for staged in self._store.staging]
            closed = [inode for inode in staged if is_live(inode) and not is_open(inode)]
            if not closed:
                break
            await trio.sleep(CLOSE_SECONDS)
            while closed:
                inodes = round_of(self._store, closed)
                closed = closed[len(inodes) :]
                ingesting = self._ingest.ingest_apart(inodes, done=self._drained.notify)
                failures |= await self._context.driver.run(ingesting)
        return failures

    async def ingest_all(self) -> None:
        """Ingest all staged bytes now, because room is short, also of files that are being written.

        Files that fail stay staged.
        """
        staged = [staged.inode for staged in self._store.staging]
        is_open = self._context.handles.is_open_for_writing
        pending = [inode for inode in staged if not is_open(inode)]
        while pending:
            inodes = round_of(self._store, pending)
            pending = pending[len(inodes) :]
            await self._context.driver.run(
                self._ingest.ingest_apart(inodes, done=self._drained.notify)
            )
        for inode in filter(is_open, staged):
            with contextlib.suppress(StoreFull, OSError):
                await self._context.driver.run(
                    self._ingest.ingest([inode], complete=False, urgent=True)
                )

    # -- files that are due

    async def ingest(self, inodes: Sequence[InodeNumber], *, complete: bool) -> None:
        """Ingest a round of files.

        Raises:
            StoreFull, OSError: no room, or the disk failed; content that is not in chunks is still
                staged.
        """
        job = self._ingest.ingest(inodes, complete=complete, done=self._drained.notify)
        for inode in await self._context.driver.run(job):
            if self._context.handles.is_open_for_writing(inode):
                self._file(inode).unrecognised = True
            elif complete:
                is_live = self._store.contents.is_live(inode)
                seconds = LIVE_RETRY_SECONDS if is_live else ROUND_RETRY_SECONDS
                self._file(inode).due = trio.current_time() + seconds

    async def ingest_due(self) -> None:
        """Ingest every file that is due, and then once each long file that is being written.

        Programs may write a long file faster than it is ingested, so the next pass over it comes
        after the files that are due by then.

        Raises:
            StoreFull, OSError: as `ingest` does; the round's files are due again after
                `ROUND_RETRY_SECONDS`.
        """
        self._queue_requested()
        for inode, waiting in self._waiting.items():
            # A file that was opened for writing again is due after its next close.
            if self._context.handles.is_open_for_writing(inode):
                waiting.due = math.inf
        while inodes := self._next_round():
            try:
                await self.ingest(inodes, complete=True)
            except BaseException:  # also if it is cancelled: no round forgets its files
                retry = trio.current_time() + ROUND_RETRY_SECONDS
                for inode in inodes:
                    self._file(inode).due = retry
                    self._file(inode).alone = True
                raise
        for inode in [inode for inode, waiting in self._waiting.items() if waiting.early]:
            # It may have been removed meanwhile, or closed and ingested by a sync.
            if inode in self._waiting and self._waiting[inode].early:
                await self._ingest_early(inode)

    async def _ingest_early(self, inode: InodeNumber) -> None:
        self._waiting[inode].early = False
        try:
            await self.ingest([inode], complete=False)
        except BaseException:
            if inode in self._waiting:  # behind the others, which may not fail
                waiting = self._waiting[inode] = self._waiting.pop(inode)
                waiting.early = True
            raise

    def _queue_requested(self) -> None:
        """Queue the files of the next page of requests."""
        requested = self._store.inventory.requested(self._next_request, REQUESTS_PAGE)
        for inode in requested:
            if self._file(inode).due == math.inf:
                self._file(inode).due = 0.0
        self._next_request = requested[-1] + 1 if len(requested) == REQUESTS_PAGE else 0

    def _next_round(self) -> Sequence[InodeNumber]:
        """Remove the next files that are due from those that wait, and return them."""
        now = trio.current_time()
        due = [inode for inode, waiting in self._waiting.items() if waiting.due <= now]
        if due and self._waiting[due[0]].alone:
            inodes: Sequence[InodeNumber] = due[:1]
        else:
            together = [inode for inode in due if not self._waiting[inode].alone]
            inodes = round_of(self._store, together)
        for inode in inodes:
            del self._waiting[inode]
        return inodes
