"""Pages that programs have written through mappings of files.

Theory of operation. The kernel keeps such pages until it writes them back by itself. An fsync of
the file makes it send them to the daemon. The daemon must not call that: a thread that waits for an
answer of its own mount does not die with the process, keeps /dev/fuse open, and the mount would
hang. So a helper program calls it (see `fs.host.fsync_mapped`), and the daemon waits for the
program.

It waits in three places: before a sync, before the daemon ends, and before an open with O_TRUNC.

Example. A program maps model.bin, changes a page, and `modelfs sync` comes. The helper's fsync
makes the kernel send the page as a write request; then the helper ends, and the sync goes on.
"""

import errno
import logging
import os
from pathlib import Path
from typing import Final

import trio

from modelfs.fs.handles import Handles
from modelfs.fs.host.fsync_mapped import MOVED
from modelfs.fs.host.kernel import sync_mapped_files
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# How often a mapped file is looked up again that was renamed before its fsync.
MOVES_MAX: Final = 5
# How many opens with O_TRUNC may wait for pages at the same time. Some requests must stay free to
# receive them.
WAITING_MAX: Final = 8


class MappedPages:
    """Makes the kernel send the pages of mapped files."""

    def __init__(self, mountpoint: Path, store: Store, handles: Handles) -> None:
        self._mountpoint = mountpoint
        self._device: int | None = None
        self._store = store
        self._handles = handles
        self._waiting = trio.CapacityLimiter(WAITING_MAX)
        self._waits: set[trio.CancelScope] = set()
        self._stopped = False

    def mounted(self, device: int | None) -> None:
        """Note the number of the mount's device; None if the daemon does not see its mount."""
        self._device = device

    def _sync(self, paths: dict[InodeNumber, bytes]) -> dict[InodeNumber, str]:
        if self._device is None:
            return dict.fromkeys(paths, "the mount point is not visible to the daemon")
        return sync_mapped_files(self._mountpoint, self._device, paths)

    async def sync_all(self) -> None:
        """Make the kernel send the pages of all files, while the daemon still receives them.

        Raises:
            OSError: the pages of some files did not come; the message names one of them.
        """
        paths = self._paths(self._handles.open_for_writing())
        failures: dict[bytes, str] = {}
        for _ in range(MOVES_MAX):
            # Not on one of the workers: this call waits for them.
            problems = await trio.to_thread.run_sync(self._sync, paths, abandon_on_cancel=True)
            moved = [inode for inode, reason in problems.items() if reason == MOVED]
            failures |= {paths[inode]: problems[inode] for inode in problems.keys() - moved}
            if not (paths := self._paths(moved)):
                break
        failures |= dict.fromkeys(paths.values(), "it is renamed again and again")
        if failures:
            path, reason = next(iter(failures.items()))
            others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
            name = os.fsdecode(path)
            raise OSError(
                errno.EBUSY, f"what was written to {name}{others} through a mapping: {reason}"
            )

    def _paths(self, inodes: list[InodeNumber]) -> dict[InodeNumber, bytes]:
        """Return the paths of those inodes that have a name."""
        namespace = self._store.namespace
        nodes = ((inode, self._store.inodes.find(inode)) for inode in inodes)
        return {inode: namespace.path_of(inode) for inode, node in nodes if node and node.nlink}

    async def sync_if_possible(self, inode: InodeNumber) -> None:
        """Make the kernel send the pages of a file, unless too many requests wait for pages."""
        may_wait = self._waiting.available_tokens and not self._stopped
        if not may_wait or not self._handles.is_open_for_writing(inode):
            return
        path = self._store.namespace.path_of(inode)
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                problems = await trio.to_thread.run_sync(
                    self._sync,
                    {inode: path},
                    limiter=self._waiting,
                    abandon_on_cancel=True,
                )
            finally:
                self._waits.discard(scope)
            if problems:
                log.warning("mapped pages of %s: %s", os.fsdecode(path), problems[inode])

    def stop(self) -> None:
        """End the waits of `sync_if_possible`, and begin no more: the daemon ends.

        The loop that receives pages ends after all handlers, so none of them may wait for pages.
        """
        self._stopped = True
        for scope in self._waits:
            scope.cancel()
