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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from modelfs.errors import LostBytes
from modelfs.store.disk.calls import Calls
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staged_file import Frozen, StagedFile, with_staged_state
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.tables import KEY_MAX, InodeNumber

# Extents removed in one change, so that no request waits long.
TRIM_SLICE: Final = 100


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

    def flush(self, inode: InodeNumber, *, old_losses: bool = True) -> Calls[None]:
        """Sync a file's staged bytes and record them, so that the next commit makes them durable.

        Yields each slow call: see `disk.calls`.

        Args:
            inode: of the file.
            old_losses: fail, too, if all lost bytes were lost before the store was opened.

        Raises:
            LostBytes: the disk failed or was full, now or in an earlier flush; the message names
                the file.
            OSError: staging files cannot be opened, or the names of new ones are not durable.
        """
        while (staged := self._staging.find(inode)) is not None and staged.dirty:
            self._staging.wholes.prove_final(staged)  # so that it keeps no descriptor afterwards
            frozen = staged.freeze()
            try:
                yield partial(self._staging.sync, inode, frozen.windows)
            finally:
                staged.flushing.remove(frozen)
            if self._record(staged, frozen):
                break
        staged = self._staging.find(inode)
        if staged is not None and (old_losses or staged.has_new_losses):
            self.check_losses(staged)

    def check_losses(self, staged: StagedFile) -> None:
        """Check that the disk has not lost bytes that were written to a file.

        Raises:
            LostBytes: it has.
        """
        if size := staged.lost_bytes:
            path, reason = os.fsdecode(self._path_of(staged.inode)), os.strerror(staged.lost_error)
            message = f"{size} bytes written to {path} were lost: {reason}"
            raise LostBytes(message, staged.lost_error)

    def flush_all(self) -> Calls[None]:
        """Flush all files; bytes that were lost before the store was opened are no error.

        Yields and raises as `flush_some`.
        """
        return self.flush_some([staged.inode for staged in self._staging], old_losses=False)

    def flush_some(self, inodes: Iterable[InodeNumber], *, old_losses: bool = True) -> Calls[None]:
        """Flush several files. Yields as `flush`.

        Raises:
            LostBytes, OSError: the first error; all files without an error are flushed.
        """
        failures: list[LostBytes | OSError] = []
        for inode in inodes:
            try:
                yield from self.flush(inode, old_losses=old_losses)
            except (LostBytes, OSError) as exc:
                failures.append(exc)
        if failures:
            raise failures[0]

    def _record(self, staged: StagedFile, frozen: Frozen) -> bool:
        """Record in the index that a frozen state is durable; False if the flush is void."""
        if self._staging.find(staged.inode) is not staged:
            return True  # meanwhile ingest has put all of the file into chunks
        if staged.generation != frozen.state.generation:
            return False
        with self._index.change():
            node = self._inodes.get(staged.inode)
            self._inodes.put(with_staged_state(node, frozen.state))
            self.hide_map(staged.inode, frozen.state.map_visible_to)
            for window in frozen.windows:
                self._staging.rows.record(staged.inode, window, frozen.lost[window.number])
            self._staging.drop_superseded(staged, frozen.superseded)
        staged.flush_recorded(frozen)
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

    def hide_map(self, inode: InodeNumber, visible_to: int | None) -> int | None:
        """Record the offset from which a file's map is hidden, and return it; None: it is visible.

        It is hidden behind a truncation, and behind the recorded size: a crash leaves this size,
        and the file may become longer afterwards.
        """
        size = self._inodes.get(inode).size
        extent_behind = next(self._maps.overlapping(inode, size, KEY_MAX), None)
        edges = (visible_to, None if extent_behind is None else size)
        lowest = min((edge for edge in edges if edge is not None), default=None)
        self._staging.rows.record_visible_to(inode, lowest)
        return lowest

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
                # A region of ingest that is under way has extents of before the truncation, and
                # from here on no edge shows that.
                staged.edits += 1
                return
            yield
