"""Set-ID bits and capabilities of files that the kernel writes for programs.

A write to a file clears its set-ID bits and its capabilities: a user who may write a file must not
get the rights of its owner by that. But the daemon sees no write to a file that is passed through
(see `passthrough`). A file with such rights does not begin to be passed through, and one that is
passed already is watched from its open on. If a file gets them while programs have it open for
writing, as `cp -p` and `tar` do, the rights are dropped as soon as the file is seen to have changed
since: the kernel asks for the attributes of such a file each time, also before it executes it. When
the last of these programs has closed the file, and it is still mapped for writing, they are
dropped, too.

Example. Root sets setuid of a tool that a user of its group has open for writing. The user writes.
Before the next execve(2) the kernel asks for the mode, and the file is no longer setuid.
"""

import contextlib
import stat
from collections.abc import Awaitable, Callable
from typing import Final

from modelfs.errors import NoAttribute, TextBusy
from modelfs.store.files.whole_file import DiskStamp, WholeFile
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

SET_ID: Final = stat.S_ISUID | stat.S_ISGID
CAPABILITIES: Final = b"security.capability"


class Privileges:
    """The rights of files that the kernel may write unseen."""

    def __init__(self, store: Store, flush: Callable[[InodeNumber], Awaitable[None]]) -> None:
        """Watch no file; `flush` syncs the staged bytes of one."""
        self._store = store
        self._flush = flush
        # The files with rights that can be written, as they were when they got or had them.
        self._granted: dict[InodeNumber, DiskStamp] = {}

    async def grant(self, inode: InodeNumber) -> None:
        """Let a file have rights, before it gets them.

        Raises:
            TextBusy: no program has it open, but one has it mapped for writing.
            LostBytes, OSError: the file cannot be flushed.
        """
        whole = self._live(inode)
        if whole is None:
            return
        if not whole.writing:
            raise TextBusy(f"inode {inode} is mapped for writing")
        stamp = whole.stamp()
        # A write to a mapped page that is dirty changes no time; a sync makes all pages clean.
        await self._flush(inode)
        self._granted[inode] = stamp

    def opened(self, inode: InodeNumber) -> None:
        """Watch a file that has rights already, before the kernel may write it."""
        whole = self._whole(inode)
        if whole is not None and inode not in self._granted and self._has_rights(inode):
            self._granted[inode] = whole.stamp()

    def time_changed(self, inode: InodeNumber) -> None:
        """Note that this process has changed the times of a file, after a `check`."""
        whole = self._whole(inode)
        if whole is not None and inode in self._granted:
            self._granted[inode] = whole.stamp()

    def check(self, inode: InodeNumber) -> None:
        """Drop the rights of a file that may have been written since it got them."""
        if (granted := self._granted.get(inode)) is None:
            return
        live, whole = self._live(inode), self._whole(inode)
        is_mapped = live is not None and not live.writing
        if is_mapped or whole is None or whole.stamp() != granted:
            self._drop(inode)
        if live is None or is_mapped:
            self._granted.pop(inode, None)

    def _whole(self, inode: InodeNumber) -> WholeFile | None:
        staged = self._store.staging.peek(inode)
        return None if staged is None else staged.whole

    def _live(self, inode: InodeNumber) -> WholeFile | None:
        """Return the whole file of an inode if programs may write it unseen."""
        staged = self._store.staging.find(inode)
        if staged is None or self._store.staging.wholes.prove_final(staged):
            return None
        return staged.whole

    def _has_rights(self, inode: InodeNumber) -> bool:
        has_bits = bool(self._store.inodes.get(inode).mode & SET_ID)
        return has_bits or CAPABILITIES in self._store.attributes.names(inode)

    def _drop(self, inode: InodeNumber) -> None:
        del self._granted[inode]
        self._store.attributes.drop_privileges(inode)
        with contextlib.suppress(NoAttribute):
            self._store.attributes.remove(inode, CAPABILITIES)
