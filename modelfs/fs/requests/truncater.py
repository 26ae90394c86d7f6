"""Truncation of files, by setattr and by open with O_TRUNC."""

import logging
import os
from pathlib import Path
from typing import Final

import trio

from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.handles import Handles
from modelfs.fs.host.kernel import sync_mapped_files
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# How many opens with O_TRUNC may wait for the kernel's pages at the same time.
WAITING_MAX: Final = 8


class Truncater:
    """Sets the sizes of files."""

    def __init__(
        self, store: Store, handles: Handles, ingest: BackgroundIngest, mountpoint: Path
    ) -> None:
        self._mountpoint = mountpoint
        self._waits: set[trio.CancelScope] = set()
        self._stopped = False
        self._store = store
        self._handles = handles
        self._ingest = ingest
        self._waiting = trio.CapacityLimiter(WAITING_MAX)

    def truncate(self, inode: InodeNumber, size: int, uid: int) -> None:
        """Set a file's size, and clear its set-ID bits unless root asks.

        Raises:
            FileTooLarge: `size` is past the largest file size.
        """
        self._store.writes.truncate(inode, size)
        if not self._handles.is_open_for_writing(inode):
            self._ingest.closed(inode)
        if uid:
            self._store.attributes.drop_privileges(inode)

    async def truncate_at_open(self, inode: InodeNumber, uid: int) -> None:
        """Set a file's size to zero, after the kernel has sent its mapped pages.

        Before any other truncation the kernel waits for pages that it is sending, but not before
        O_TRUNC, which libfuse leaves to open (FUSE_ATOMIC_O_TRUNC). Such pages would arrive after
        the truncation and bring back bytes from before it.
        """
        # Some requests must stay free to receive these pages, so not every open may wait.
        may_wait = self._waiting.available_tokens and not self._stopped
        if may_wait and self._handles.is_open_for_writing(inode):
            await self._sync_mapped(inode)
        self.truncate(inode, 0, uid)

    async def _sync_mapped(self, inode: InodeNumber) -> None:
        path = self._store.namespace.path_of(inode)
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                problems = await trio.to_thread.run_sync(
                    sync_mapped_files,
                    self._mountpoint,
                    {inode: path},
                    limiter=self._waiting,
                    abandon_on_cancel=True,
                )
            finally:
                self._waits.discard(scope)
            if problems:
                # Its pages may come after the truncation, and bring back bytes from before it.
                log.warning("mapped pages of %s: %s", os.fsdecode(path), problems[inode])

    def stop_waiting(self) -> None:
        """Truncate without the kernel's pages from now on: the daemon ends.

        The loop that receives pages ends after all handlers, so none of them may wait for pages.
        """
        self._stopped = True
        for scope in self._waits:
            scope.cancel()
