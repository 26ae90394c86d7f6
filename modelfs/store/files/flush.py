"""Flush: staged bytes become durable where they lie, in their staging files.

Theory of operation. A flush has three parts, so that no request waits for the disk:

1. Freeze (owner's thread): copy the file's staged state, and list its dirty windows.
2. Sync (any thread): fdatasync those windows' files.
3. Record (owner's thread): put into the index that what was frozen is durable.

Between 1 and 3 the file may be written, cut or ingested. `StagedFile.generation` counts cuts,
flushes and ingested steps; if it moved, the flush is void and begins anew, because the frozen state
may be older than what the index has. A write alone does not move it: the window stays dirty, and
the next flush takes the rest.

What the index says of a file between flushes, and who changes it::

    field                   changed by             a crash leaves
    inode size, times       flush, ingest          the state of the last flush
    staged windows' rows    flush; ingest drops    the ranges that were durable at the last flush
    map hidden from (TRIMS) flush, ingest, trim    nothing behind a truncation, or behind the size

Example. A file of 3 windows is durable; a program truncates it to 1 window and writes 10 bytes at
its end. In memory windows 1 and 2 are *superseded*: their rows stay, so a crash still finds the old
file. The flush syncs window 0, then in one change sets the size, hides the map behind it, records
window 0's new ranges and deletes the rows of 1 and 2. The next commit deletes their files.
"""

import dataclasses
import errno
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from modelfs.store.disk.calls import Calls
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staged_file import StagedFile, Window
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import KEY_MAX, InodeNumber

# Extents removed in one change, so that no request waits long.
TRIM_SLICE: Final = 100
# Errors by which fdatasync(2) says that bytes are lost; not, say, that no descriptor was free.
LOST: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True)
class _Flush:
    """A file's state when a flush of it began."""

    staged: StagedFile
    frozen: StagedFile
    superseded: tuple[Window, ...]
    began: float  # monotonic seconds
    failure: OSError | None = None

    @property
    def windows(self) -> list[Window]:
        return [window for window in self.frozen.windows.values() if window.dirty]


class Flusher:
    """Makes staged files durable, and keeps their inode records and maps right meanwhile."""

    def __init__(self, index: Index, inodes: Inodes, maps: FileMaps, staging: Staging) -> None:
        self._index = index
        self._inodes = inodes
        self._maps = maps
        self._staging = staging

    def flush(self, inode: InodeNumber) -> Calls:
        """Put a file's staged content where the next commit makes it durable.

        Yields what is slow, for any thread to call before the flush goes on.

        Raises:
            OSError: the disk refused the bytes, now or in an earlier flush. They may be lost.
        """
        while (flush := self._freeze(inode)) is not None:
            yield partial(self._sync, flush)
            if flush.failure is not None:
                _mark_lost(flush, flush.failure)
                raise flush.failure
            if self._record(flush):
                return

    def flush_all(self, inodes: Iterable[InodeNumber]) -> Calls:
        """Flush several files, as `flush` does each.

        Raises:
            OSError: of the first file that failed; all others are flushed.
        """
        failures: list[OSError] = []
        for inode in inodes:
            try:
                yield from self.flush(inode)
            except OSError as exc:
                failures.append(exc)
        if failures:
            raise failures[0]

    def _freeze(self, inode: InodeNumber) -> _Flush | None:
        staged = self._staging.find(inode)
        if staged is None or not staged.dirty:
            return None
        if staged.failed:
            raise OSError(errno.EIO, f"what was written to inode {inode} could not be stored")
        return _Flush(staged, staged.copy(), tuple(staged.superseded), time.monotonic())

    def _sync(self, flush: _Flush) -> None:
        try:
            self._staging.sync(flush.staged.inode, flush.windows)
        except OSError as exc:
            flush.failure = exc

    def _record(self, flush: _Flush) -> bool:
        """Put into the index that a flush's windows are durable; False if the flush is void."""
        staged, frozen = flush.staged, flush.frozen
        if self._staging.find(staged.inode) is not staged:
            return True  # ingest was faster, and wrote all of it
        if staged.generation != frozen.generation:
            return False
        with self._index.change():
            node = self._inodes.get(staged.inode)
            self._inodes.put(with_state(node, frozen))
            self.hide_map(staged.inode, frozen.map_visible_to)
            for window in flush.windows:
                self._staging.record(staged.inode, window, window.ranges)
            self._staging.drop_superseded(staged, flush.superseded)
        for window in flush.windows:
            now = staged.windows[window.number]
            now.dirty = now.stamp != window.stamp
        staged.size_floor = min(staged.size, frozen.size)
        staged.generation += 1
        staged.dirty = staged.differs(frozen)
        staged.dirty_since = flush.began
        return True

    # -- what flush, ingest and trim owe the inode record

    def admit_truncation(self, staged: StagedFile) -> None:
        """Let the inode record say that the file was cut. Before the map loses or gains bytes.

        Otherwise a crash could show the old size over a map that no longer has those bytes. After
        the change of the index, call `StagedFile.truncation_admitted`.
        """
        node = self._inodes.get(staged.inode)
        if staged.size_floor < node.size:
            self._inodes.put(dataclasses.replace(node, size=staged.size_floor))

    def hide_map(self, inode: InodeNumber, visible_to: int | None) -> None:
        """Record from where on a file's map is not to be seen.

        That is behind a truncation, and behind the recorded size: a crash leaves that size, and
        the file may be made longer afterwards.
        """
        size = self._inodes.get(inode).size
        behind = next(self._maps.overlapping(inode, size, KEY_MAX), None)
        edges = (visible_to, None if behind is None else size)
        lowest = min((edge for edge in edges if edge is not None), default=None)
        self._staging.record_visible(inode, lowest)

    def trim(self, inode: InodeNumber) -> Iterator[None]:
        """Remove the extents behind a truncation; yields after each slice but the last."""
        while not self._trim_slice(inode):
            yield

    def _trim_slice(self, inode: InodeNumber) -> bool:
        staged = self._staging.find(inode)
        if staged is None or staged.map_visible_to is None:
            return True
        with self._index.change():
            self.admit_truncation(staged)
            done = self._maps.trim(inode, staged.map_visible_to, TRIM_SLICE)
            self.hide_map(inode, None if done else staged.map_visible_to)
            self._staging.drop_superseded(staged, staged.superseded)
        staged.truncation_admitted()
        if done:
            staged.map_visible_to = None
        return done


def with_state(node: Inode, staged: StagedFile) -> Inode:
    """Return an inode's record with the size and times of its staged state."""
    return dataclasses.replace(
        node,
        size=staged.size,
        mtime_ns=staged.mtime_ns,
        ctime_ns=max(node.ctime_ns, staged.ctime_ns),
    )


def _mark_lost(flush: _Flush, why: OSError) -> None:
    # The kernel tells of a page that it could not write once, and then takes it for clean. So no
    # later flush of the same bytes may say that they are durable, and ingest may not read them
    # again: until the file is written anew, its fsync fails.
    if why.errno not in LOST:
        return
    for window in flush.windows:
        now = flush.staged.windows.get(window.number)
        if now is not None and now.generation == window.generation:
            now.failed = True
