"""Opens of files: their handles, and the backing files that the kernel gets for them.

An open has three steps. `open` counts it, from then on `prepare` may wait, and `reply` makes the
answer, right before it is sent. If a step fails, the handler closes the file again.

Example. A program opens a file with O_SYNC while another one writes it by way of the kernel. The
open gets handle 8 and the number of the file's backing file. `prepare` flushes the file and
commits, so that a crash finds its staging file. The reply names handle 8 and the number.
"""

import contextlib
import os
from typing import Final

import pyfuse3
from pyfuse3 import FileHandleT, FileInfo, InodeT

from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.handles import Handles
from modelfs.fs.host import session_io
from modelfs.fs.requests.passthrough import Passthrough
from modelfs.fs.requests.privileges import Privileges
from modelfs.store.files.content import Contents
from modelfs.store.index.tables import InodeNumber

# Flags of open(2) that make each write durable.
DURABLE: Final = os.O_SYNC | os.O_DSYNC


class Opener:
    """Opens files for programs."""

    def __init__(
        self,
        contents: Contents,
        handles: Handles,
        passthrough: Passthrough,
        privileges: Privileges,
        background: Scheduler,
        *,
        is_sync: bool = False,
    ) -> None:
        """Make an opener; with `is_sync`, the mount has the option `sync`."""
        self._contents = contents
        self._handles = handles
        self._passthrough = passthrough
        self._privileges = privileges
        self._durability = background.durability
        self._hot = background.hot
        self._is_sync = is_sync

    def open(self, inode: InodeNumber, flags: int, pid: int) -> FileHandleT:
        """Open a file, and return its handle.

        Raises:
            NotFound, CorruptIndex, OSError: it cannot be opened; nothing is open.
        """
        writable = wants_to_write(flags)
        number = self._passthrough.open(inode, flags, writable=writable)
        if not (writable or number):
            self._hot.opened(inode)
        durable = self._is_sync or bool(flags & DURABLE)
        return self._handles.open(inode, writable=writable, pid=pid, number=number, durable=durable)

    async def prepare(self, fh: FileHandleT) -> None:
        """Do all that an open file which the kernel serves needs before its program may write.

        Raises:
            CorruptIndex: the file's records are damaged.
            LostBytes, StoreFull, OSError: its changes are to be durable, and the flush failed.
        """
        handle = self._handles[fh]
        if not handle.is_passed:
            return
        if handle.writable:
            self._privileges.opened(handle.inode)
            # The kernel may have cached a time that a mapping is about to change, unless the file
            # is new to it.
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(InodeT(handle.inode), attr_only=True)
        if handle.durable:
            # Once its staging file is in the index, a crash leaves all that the kernel writes.
            await self._durability.make_durable(handle.inode)

    def reply(self, fh: FileHandleT) -> FileInfo:
        """Return the reply that opens a handle. It has to be sent next: see `back_next_open`."""
        handle = self._handles[fh]
        if handle.is_passed:
            session_io.back_next_open(fh, handle.number)
        return FileInfo(fh=fh, keep_cache=not self._contents.is_live(handle.inode))


def wants_to_write(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY
