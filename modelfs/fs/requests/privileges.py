"""Set-ID bits and capabilities of files that the kernel writes for programs.

A write to a file clears its set-ID bits and its capabilities: a user who may write a file must not
get the rights of its owner by that. But the daemon sees no write to a file that is passed through
(see `passthrough`). A file with such rights is not passed through when it is opened. If it gets
them while programs have it open for writing, as `cp -p` and `tar` do, the rights are dropped as
soon as the file is seen to have changed since: the kernel asks for the attributes of such a file
each time, also before it executes it. When the last of these programs has closed the file, and it
is still mapped for writing, they are dropped, too.

Example. Root sets setuid of a tool that a user of its group has open for writing. The user writes.
Before the next execve(2) the kernel asks for the mode, and the file is no longer setuid.
"""

import contextlib
import stat
from typing import Final

from modelfs.errors import NoAttribute, TextBusy
from modelfs.store.files.whole_file import Stamp, WholeFile
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

SET_ID: Final = stat.S_ISUID | stat.S_ISGID
CAPABILITIES: Final = b"security.capability"


class Privileges:
    """The rights of files that the kernel may write unseen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The files that got rights while they could be written, as they were by then.
        self._granted: dict[InodeNumber, Stamp] = {}

    def grant(self, inode: InodeNumber) -> None:
        """Let a file have rights, before it gets them.

        Raises:
            TextBusy: no program has it open, but one has it mapped for writing.
        """
        whole = self._live(inode)
        if whole is None:
            return
        if not whole.writing:
            raise TextBusy(f"inode {inode} is mapped for writing")
        self._granted[inode] = whole.stamp()

    def check(self, inode: InodeNumber) -> None:
        """Drop the rights of a file that may have been written since it got them."""
        if (granted := self._granted.get(inode)) is None:
            return
        whole = self._live(inode)
        is_mapped = whole is not None and not whole.writing
        if is_mapped or self._stamp(inode) != granted:
            self._drop(inode)
        if whole is None or is_mapped:
            self._granted.pop(inode, None)

    def _stamp(self, inode: InodeNumber) -> Stamp | None:
        staged = self._store.staging.find(inode)
        return None if staged is None or staged.whole is None else staged.whole.stamp()

    def _live(self, inode: InodeNumber) -> WholeFile | None:
        """Return the whole file of an inode if programs may write it unseen."""
        staged = self._store.staging.find(inode)
        if staged is None or staged.whole is None or self._store.staging.wholes.settle(staged):
            return None
        return staged.whole

    def _drop(self, inode: InodeNumber) -> None:
        del self._granted[inode]
        self._store.attributes.drop_privileges(inode)
        with contextlib.suppress(NoAttribute):
            self._store.attributes.remove(inode, CAPABILITIES)
