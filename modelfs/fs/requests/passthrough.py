"""Passthrough: the kernel itself reads, writes and maps a file, in a whole staging file.

Theory of operation. FUSE passthrough (see `fs.host.backing`) takes the daemon out of the way of the
bytes. It serves files that are written from their beginning: a file that is created, or opened for
writing while it is empty, gets a whole staging file (see `store.files.whole_file`), and each open
of it is answered with the number of that file. When the file is in chunks, and no program has it
open or mapped any more, the next open is answered as that of any stored file.

All opens of a file at a time have the same number, or none has one: the kernel fails an open that
is another way with EIO. So the first open decides, and the last close ends the registration.

Files have none if a promise could not be kept for them:

- with O_SYNC, O_DSYNC or the mount option `sync`, since a write is durable only when the index has
  the file; with O_DIRECT, which the disk under the store may refuse;
- with setuid, setgid or extended attributes, since a write has to clear capabilities;
- below a `--limit`, on a disk of less than some 3 GiB, or while less than twice the reserve is
  free, since no write asks for room. While there are writers, the reserve is held: `disk.guard`.
  So there are none on a disk that cannot hold it either, such as tmpfs and ZFS.

Example. `cp` creates model.bin: its inode gets the whole file 5-w-1, the kernel gets it as number
1, and the reply to the create names 1. The kernel writes 700 MiB. A second program opens model.bin
for reading, and its reply names 1, too. Both close it, and number 1 ends.
"""

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import Final

from modelfs.fs.handles import Handles
from modelfs.fs.host import session_io
from modelfs.fs.host.backing import BackingFiles
from modelfs.fs.requests.privileges import SET_ID
from modelfs.jobs.ingest.passes import REGION_BYTES
from modelfs.store.disk.lease import has_leases
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

UNSUITED_FLAGS: Final = os.O_SYNC | os.O_DSYNC | os.O_DIRECT


@dataclass(slots=True)
class _Opens:
    """The open files of an inode that the kernel serves itself."""

    whole: WholeFile
    number: int
    guarded: int = 0  # opens for writing that hold the reserve


class Passthrough:
    """Decides which open files the kernel serves itself, and gives it their staging files."""

    def __init__(self, store: Store, handles: Handles) -> None:
        self._store = store
        self._handles = handles
        self._files: BackingFiles | None = None
        self._opens: dict[InodeNumber, _Opens] = {}

    def begin(self) -> bool:
        """Begin to serve files, after the mount, if the kernel and the store's disk can do it."""
        if not session_io.granted() & session_io.PASSTHROUGH:
            return False
        files = BackingFiles()
        try:
            _try_out(files, self._store.staging.directory.link)
        except OSError as exc:
            log.warning("--passthrough has no effect: %s", exc.strerror)
        else:
            self._files = files
        return self._files is not None

    def serves(self, inode: InodeNumber) -> bool:
        """Whether the kernel serves the open files of an inode."""
        return inode in self._opens

    def open(self, inode: InodeNumber, flags: int, *, writable: bool) -> int:
        """Open a file, before its handle is; `close` follows at the end of that, unless it is 0.

        Args:
            inode: of the file.
            flags: of open(2).
            writable: whether it is opened for writing.

        Returns:
            The number of the backing file for the reply; 0: it has none.

        Raises:
            OSError: a staging file cannot be opened.
        """
        if self._files is None:
            return 0
        opens = self._opens.get(inode)
        if opens is None and not self._suits(inode, flags, writable=writable):
            return 0
        is_guarded = writable and self._store.space.begin_unseen()
        try:
            # All opens of a file have its number: one more writer may have no guard.
            if opens is None and writable and not is_guarded:
                return 0
            opens = opens or self._begin(inode, writable=writable)
            if opens is None:
                return 0
            if writable and self._store.staging.find(inode) is None:
                self._store.contents.staged(inode)  # its copy becomes the content
            opens.whole.opened(writable=writable)
            opens.guarded += is_guarded
            is_guarded = False
            return opens.number
        finally:
            if is_guarded:
                self._store.space.end_unseen()
            if opens is not None:
                self._end_if_unused(inode, opens)

    def close(self, inode: InodeNumber, *, writable: bool) -> None:
        """Close a file that was opened with a number."""
        opens = self._opens[inode]
        opens.whole.closed(writable=writable)
        if writable and opens.guarded:
            opens.guarded -= 1
            self._store.space.end_unseen()
        self._end_if_unused(inode, opens)

    def _begin(self, inode: InodeNumber, *, writable: bool) -> _Opens | None:
        """Begin to serve a file, at its first open; None if it is not served."""
        whole = self._find(inode, writable=writable)
        if whole is None or (number := self._register(whole)) == 0:
            return None
        return self._opens.setdefault(inode, _Opens(whole, number))

    def _end_if_unused(self, inode: InodeNumber, opens: _Opens) -> None:
        if opens.whole.opens:
            return
        del self._opens[inode]
        assert self._files is not None, "nothing was opened"
        with contextlib.suppress(OSError):  # the mount has ended, and with it all numbers
            self._files.unregister(opens.number)

    def _register(self, whole: WholeFile) -> int:
        assert self._files is not None, "the kernel serves none"
        try:
            return self._files.register(whole.descriptor().fd)
        except OSError as exc:
            log.warning("a file is not passed through: %s", exc)
            return 0

    # -- which files

    def _suits(self, inode: InodeNumber, flags: int, *, writable: bool) -> bool:
        """Whether the first open of a file may have a whole file."""
        if flags & UNSUITED_FLAGS or self._handles.is_open(inode):
            return False
        staged = self._store.staging.find(inode)
        copies = self._store.staging.wholes.copies
        if staged is None and copies.find(inode) is not None:
            return writable or copies.proven(inode) is not None
        if staged is not None and staged.whole is not None:
            return not staged.lost_bytes
        return writable and self._may_begin(self._store.contents.node(inode))

    def _find(self, inode: InodeNumber, *, writable: bool) -> WholeFile | None:
        """Return the whole file for the first open of a file, None if it has and gets none."""
        wholes = self._store.staging.wholes
        staged = self._store.staging.find(inode)
        if staged is None and not writable:
            return wholes.copies.find(inode)
        if staged is None and not wholes.copies.drop(inode):
            return self._store.contents.staged(inode).whole
        if staged is not None and staged.whole is not None:
            return staged.whole
        if not writable or not self._may_begin(self._store.contents.node(inode)):
            return None
        staged = self._store.contents.staged(inode)
        return None if staged.windows else self._store.staging.begin_whole(staged)

    def _may_begin(self, node: Inode) -> bool:
        """Whether an inode may get a whole file."""
        if node.size or node.mode & SET_ID or node.xattr_rows:
            return False
        if self._store.staging.is_crowded:
            return False
        if self._store.space.may_write_unseen(REGION_BYTES):
            return True
        self._store.staging.wholes.copies.shrink(0)
        return self._store.space.may_write_unseen(REGION_BYTES)


def _try_out(files: BackingFiles, folder: str) -> None:
    """Try passthrough with a file that has no name.

    Raises:
        OSError: the kernel, this process's rights, or the folder's file system lack something.
    """
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if not has_leases(fd):
            raise OSError(None, "the disk has no leases")
        files.unregister(files.register(fd))
    finally:
        os.close(fd)
