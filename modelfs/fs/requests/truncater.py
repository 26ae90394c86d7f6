"""Truncation of files, by setattr and by open with O_TRUNC."""

from typing import Final

import trio

from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.handles import Handles
from modelfs.fs.host.kernel import drop_mapped_pages
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

# How many opens with O_TRUNC may wait for the kernel's pages at the same time.
WAITING_MAX: Final = 8


class Truncater:
    """Sets the sizes of files."""

    def __init__(self, store: Store, handles: Handles, ingest: BackgroundIngest) -> None:
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
        if self._handles.is_open_for_writing(inode) and self._waiting.available_tokens:
            await trio.to_thread.run_sync(
                drop_mapped_pages, inode, limiter=self._waiting, abandon_on_cancel=True
            )
        self.truncate(inode, 0, uid)
