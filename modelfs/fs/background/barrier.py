"""The barrier of renames: no commit has a new name before the content under it is durable.

Theory of operation. A rename over an existing file puts the renamed file behind the barrier. A
commit first flushes the files behind it. If renames add more meanwhile, it flushes again, and holds
up further renames until it is done.

Example. A program writes a.tmp and renames it to a. The next commit sees a.tmp's inode behind the
barrier, flushes it, and then writes the index with the new name. After a crash, a has either its
old content or the whole new content.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from modelfs.errors import LostBytes
from modelfs.store.files.staging import Staging
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)


class Barrier:
    """The files that a commit flushes first, and the renames that wait for the commit."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._inodes: set[InodeNumber] = set()
        self._may_pass = trio.Event()
        self._may_pass.set()

    async def before_rename(self) -> None:
        """Wait while a commit holds up renames."""
        while not self._may_pass.is_set():
            await self._may_pass.wait()

    def replaced(self, inode: InodeNumber) -> None:
        """Note that a file was renamed over another."""
        staged = self._staging.find(inode)
        if staged is not None and staged.dirty:
            self._inodes.add(inode)

    async def clear(self, flush: Callable[[list[InodeNumber]], Awaitable[None]]) -> None:
        """Flush the files behind the barrier until there are none; hold up renames if need be.

        `lift` follows in any case.

        Args:
            flush: flushes files.
        """
        first = True
        while self._inodes:
            if not first and self._may_pass.is_set():
                self._may_pass = trio.Event()
            first = False
            inodes, self._inodes = self._inodes, set()
            try:
                await flush(sorted(inodes))
            except (LostBytes, OSError) as exc:
                # All other files' commits are worth more than "old or new content" of this one.
                log.error("a renamed file could not be flushed and may be lost in a crash: %s", exc)
            except BaseException:
                self._inodes |= inodes
                raise

    def lift(self) -> None:
        """Let renames pass: the commit is done, or has failed."""
        self._may_pass.set()
