"""Flush: makes staged bytes durable in their staging files.

Theory of operation. A flush has three parts, so that no request waits for the disk:

1. Freeze (owner's thread): copy the file's staged state, which has its dirty windows.
2. Sync (any thread): fdatasync the files of these windows.
3. Record (owner's thread): record the frozen state in the index.

Between 1 and 3 the file may be written, truncated or ingested.

- A write leaves the window dirty, and the next flush makes its bytes durable.
- A truncation is recorded, too: the frozen state is cut to the smallest size since. So a program
  that truncates its file again and again holds up no flush, nor the commit that waits for it.
- `StagedFile.generation` counts flushes, ingested regions and slices of a trim. If it has changed,
  the flush is void and starts again, because the frozen state may be older than the index.

The state of a staged file in the index::

    field                   changed by             state after a crash
    inode size, times       flush, ingest          as of the last flush
    staged windows' rows    flush; ingest drops    the ranges that were durable at the last flush
    map hidden from (TRIMS) flush, ingest, trim    hidden behind a truncation and behind the size

Example. A file of 3 windows is durable. A program truncates it to 1 window less 10 bytes, and then
writes 10 bytes at its end. In memory windows 1 and 2 are *superseded*: their rows stay, so a crash
leaves the old file. The flush syncs window 0. Then in one change it sets the size, hides the map
behind it, records the new ranges of window 0 and deletes the rows of 1 and 2. The next commit
deletes their files.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from modelfs.store.disk.calls import Calls
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staged_file import Freeze, StagedFile, Window, with_staged_state
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import KEY_MAX, InodeNumber

# Extents removed in one change, so that no request waits long.
TRIM_SLICE: Final = 100


@dataclass(slots=True)
class _Flush:
    """One flush of one file."""

    staged: StagedFile
    frozen: StagedFile  # a copy of `staged` from the beginning of the flush
    superseded: tuple[Window, ...]
    lost: dict[int, RangeSet]  # of the windows, at the freeze
    freeze: Freeze
    began: float  # monotonic seconds
    failure: OSError | None = None  # of the sync

    @property
    def windows(self) -> list[Window]:
        return [window for window in self.frozen.windows.values() if window.dirty]


class Flusher:
    """Makes staged files durable, and keeps their inode records and maps consistent with them."""

    def __init__(
        self,
        index: Index,
        inodes: Inodes,
        maps: FileMaps,
        staging: Staging,
        path_of: Callable[[InodeNumber], bytes],
    ) -> None:
        """Create a flusher; `path_of` returns a path of an inode, for messages."""
        self._path_of = path_of
        self._index = index
        self._inodes = inodes
        self._maps = maps
        self._staging = staging

    def flush(self, inode: InodeNumber) -> Calls:
        """Sync a file's staged bytes and record them, so that the next commit makes them durable.

        Yields each slow call: see `disk.calls`.

        Raises:
            OSError: the disk failed or was full, now or in an earlier flush. Written bytes may be
                lost.
        """
        yield from self._sync_and_record(inode)
        staged = self._staging.find(inode)
        if staged is not None:
            self._raise_losses(staged)

    def _sync_and_record(self, inode: InodeNumber) -> Calls:
        """Do a flush, which does not fail because of lost bytes."""
        while True:
            staged = self._staging.find(inode)
            if staged is None or not staged.dirty:
                return
            flush = _begin(staged)
            try:
                yield partial(self._sync, flush)
            finally:
                staged.freezes.remove(flush.freeze)
            if flush.failure is not None:
                raise flush.failure
            if self._record(flush):
                return

    def _raise_losses(self, staged: StagedFile) -> None:
        if size := staged.lost_bytes:
            error = staged.lost_error
            path, reason = os.fsdecode(self._path_of(staged.inode)), os.strerror(error)
            raise OSError(error, f"{size} bytes written to {path} were lost: {reason}")

    def flush_all(self) -> Calls:
        """Flush all files. Yields as `flush`.

        Raises:
            OSError: of a file that lost bytes since the store was opened, or the first other
                error; all files without an error are flushed.
        """
        failures: list[OSError] = []
        for staged in list(self._staging):
            try:
                yield from self._sync_and_record(staged.inode)
                if staged.has_new_losses:
                    self._raise_losses(staged)
            except OSError as exc:
                failures.append(exc)
        if failures:
            raise failures[0]

    def flush_some(self, inodes: Iterable[InodeNumber]) -> Calls:
        """Flush several files. Yields as `flush`.

        Raises:
            OSError: the first error; all files without an error are flushed.
        """
        failures: list[OSError] = []
        for inode in inodes:
            try:
                yield from self.flush(inode)
            except OSError as exc:
                failures.append(exc)
        if failures:
            raise failures[0]

    def _sync(self, flush: _Flush) -> None:
        """Sync the windows of a flush. An error is kept, because raising it would end `flush`."""
        try:
            self._staging.sync(flush.staged.inode, flush.windows)
        except OSError as exc:
            flush.failure = exc

    def _record(self, flush: _Flush) -> bool:
        """Record in the index that a flush's windows are durable; False if the flush is void."""
        staged, frozen = flush.staged, flush.frozen
        if self._staging.find(staged.inode) is not staged:
            return True  # meanwhile ingest has put all of the file into chunks
        if staged.generation != frozen.generation:
            return False
        frozen.cut(flush.freeze.floor)
        with self._index.change():
            node = self._inodes.get(staged.inode)
            self._inodes.put(with_staged_state(node, frozen))
            self.hide_map(staged.inode, frozen.map_visible_to)
            for window in flush.windows:
                self._staging.record(staged.inode, window, flush.lost[window.number])
            self._staging.drop_superseded(staged, flush.superseded)
        for window in flush.windows:
            current = staged.windows.get(window.number)
            if current is not None and current.generation == window.generation:
                current.dirty = current.stamp != window.stamp  # written or cut during the flush
        staged.size_floor = min(staged.size, frozen.size)
        staged.generation += 1
        staged.dirty = staged.differs_from(frozen)
        staged.dirty_since = flush.began
        return True

    # -- for flush, ingest and trim: the inode record and the map

    def record_truncation(self, staged: StagedFile) -> None:
        """Record a truncation in the inode's size, before the map loses or gains bytes.

        Otherwise a crash could leave the old size with a map that no longer has those bytes. After
        the change of the index, call `StagedFile.truncation_recorded`.
        """
        node = self._inodes.get(staged.inode)
        if staged.size_floor < node.size:
            self._inodes.put(dataclasses.replace(node, size=staged.size_floor))

    def hide_map(self, inode: InodeNumber, visible_to: int | None) -> None:
        """Record the offset from which a file's map is hidden.

        It is hidden behind a truncation, and behind the recorded size: a crash leaves this size,
        and the file may become longer afterwards.
        """
        size = self._inodes.get(inode).size
        extent_behind = next(self._maps.overlapping(inode, size, KEY_MAX), None)
        edges = (visible_to, None if extent_behind is None else size)
        lowest = min((edge for edge in edges if edge is not None), default=None)
        self._staging.record_visible_to(inode, lowest)

    def trim(self, inode: InodeNumber) -> Iterator[None]:
        """Remove the extents behind a truncation; yields after each slice but the last."""
        while True:
            staged = self._staging.find(inode)
            if staged is None or staged.map_visible_to is None:
                return
            with self._index.change():
                self.record_truncation(staged)
                done = self._maps.trim(inode, staged.map_visible_to, TRIM_SLICE)
                self.hide_map(inode, None if done else staged.map_visible_to)
                self._staging.drop_superseded(staged, staged.superseded)
            staged.truncation_recorded()
            if done:
                staged.map_visible_to = None
                return
            yield


def _begin(staged: StagedFile) -> _Flush:
    freeze = staged.freeze()
    frozen = staged.copy()
    lost = {number: window.lost() for number, window in frozen.windows.items()}
    superseded = tuple(staged.superseded)
    return _Flush(staged, frozen, superseded, lost, freeze, time.monotonic())
