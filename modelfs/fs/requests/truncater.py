"""Truncation of files, by setattr and by open with O_TRUNC."""

from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.background.mapped_pages import MappedPages
from modelfs.fs.handles import Handles
from modelfs.fs.requests.passthrough import Passthrough
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store


class Truncater:
    """Sets the sizes of files."""

    def __init__(
        self,
        store: Store,
        handles: Handles,
        passthrough: Passthrough,
        ingest: BackgroundIngest,
        mapped_pages: MappedPages,
    ) -> None:
        self._store = store
        self._handles = handles
        self._passthrough = passthrough
        self._ingest = ingest
        self._mapped_pages = mapped_pages

    def truncate(self, inode: InodeNumber, size: int, uid: int) -> None:
        """Set a file's size, and clear its set-ID bits unless root asks.

        Raises:
            FileTooLarge: `size` is past the largest file size.
            OSError: as `Writes.truncate`.
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
        if not self._passthrough.serves(inode):
            await self._mapped_pages.sync_if_possible(inode)
        self.truncate(inode, 0, uid)
