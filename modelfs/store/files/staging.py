"""Staging: written bytes that are not in chunks yet.

Theory of operation. A file's content is its committed map overlaid by staged ranges. Staged bytes
lie in plain sparse files, one for each *window* of `WINDOW` bytes of the file, at their offset in
the window. Writes in any order, holes and rewrites work, and a write at offset 10^15 costs no more
than one at 0. The file of a window is never cut or punched. When its content has become chunks, or
a truncation cut the window off, the whole window is dropped, and its file is deleted once the index
that no longer mentions it is durable. Planned reads keep their descriptor, so no lock and no grace
period is needed. A window that begins again gets a new generation, and so a new file.

The index has the state of the last flush: the size, the times, and the generation and ranges of
each window. A truncation hides the committed map from `map_visible_to` on; the extents behind it
are removed later, in slices. A window that a truncation cuts off is only *superseded*: its row and
its file stay until a flush or ingest replaces them. So a crash leaves a file as its last flush
recorded it, but bytes that were rewritten inside durable ranges may be the old or the new ones, as
on other file systems.

The version of a window counts the beginning and the end of each write, and cuts. Ingest compares it
before and after it reads, and so sees whether the bytes have changed.

Example. A program writes 100 MiB to inode 5: windows 0 and 1 get the files 5-0-1 and 5-1-2. A flush
syncs both and records their ranges. Ingest makes chunks of window 0: in one change of the index the
map gets its extents and the row of window 0 is deleted. The next commit deletes 5-0-1. The program
writes at offset 0 again: window 0 begins again, with the file 5-0-3.

A process that reads beside a writer keeps no staged state in memory: it finds the state in the
index, as of the commit that it reads.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Final

from modelfs.errors import CorruptIndex, NotFound
from modelfs.store.directory import Directory
from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import Descriptor, Descriptors, share_of_limit
from modelfs.store.files.staged_file import (
    WINDOW,
    StagedFile,
    Window,
    is_window_name,
    window_name,
)
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Inode, StagedWindow
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, pair_key, pair_of

log = logging.getLogger(__name__)

# The most staging files that keep a descriptor because not all of their bytes are durable.
KEPT_MAX: Final = 8192


class Staging:
    """The staging files of a store, and the staged state of their inodes in memory."""

    def __init__(self, folder: Directory, index: Index, *, read_only: bool = False) -> None:
        self.directory = folder
        self.folder = folder.path
        self._index = index
        self._files = Descriptors(folder, os.O_RDONLY if read_only else os.O_RDWR)
        self.deletes = DeferredDeletes(folder, self._files)
        self._staged: dict[InodeNumber, StagedFile] = {}
        self.damaged = False  # rows are damaged, so files without a row may be needed for a repair
        self._generation = 0
        # The staging files that keep a descriptor, oldest first: see `WindowFile`.
        self._kept: dict[WindowFile, None] = {}
        self._kept_max = min(KEPT_MAX, share_of_limit(4))
        # How often a file was created, and how many of these names the last fsync of the folder
        # made durable. Numbers and no flag: a file that is created during an fsync of the folder
        # may not be durable, and another thread's fsync may still fail.
        self._created = 0
        self._created_durable = 0

    def __iter__(self) -> Iterator[StagedFile]:
        if self._index.others_write:
            return self.recorded()
        return iter(list(self._staged.values()))

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._index.others_write else len(self._staged)

    def find(self, inode: InodeNumber) -> StagedFile | None:
        if not self._index.others_write:
            return self._staged.get(inode)
        windows: dict[int, Window] = {}
        for key, value in self._index.pages(
            Table.STAGED, pair_key(inode, 0), pair_key(inode + 1, 0)
        ):
            window = self._recorded(key, value)
            windows[window.number] = window
        trim = self._index.get(Table.TRIMS, number_key(inode))
        if trim is None and not windows:
            return None
        return self._state(inode, windows, None if trim is None else number_of(trim))

    def adopt(self, staged: StagedFile) -> StagedFile:
        """Keep the staged state of an inode, unless there is one already. Return the kept one."""
        return self._staged.setdefault(staged.inode, staged)

    def release(self, inode: InodeNumber) -> None:
        """Drop an inode's staged state, because the inode record and the map are complete."""
        staged = self._staged.pop(inode)
        assert not staged.windows, "released with staged bytes"

    # -- windows

    def window(self, staged: StagedFile, number: int) -> Window:
        """Return a window of a file for a write. Begins one if there is none."""
        window = staged.windows.get(number)
        if window is None:
            self._generation += 1
            file = self._file(staged.inode, number, self._generation)
            window = staged.windows[number] = Window(number, self._generation, file)
        return window

    def _file(
        self, inode: InodeNumber, number: int, generation: int, **states: RangeSet
    ) -> WindowFile:
        name = window_name(inode, number, generation)
        return WindowFile(self._files, name, self._kept, **states)

    def supersede(self, staged: StagedFile, window: Window) -> None:
        """Cut off a window, because the file was truncated. Its row and its file stay for now.

        Without a row, its file is deleted at once: a program that truncates its file again and
        again would leave one for each truncation until the next commit.
        """
        del staged.windows[window.number]
        if window.file.recorded:
            staged.superseded.append(window)
            return
        window.file.forget()
        with contextlib.suppress(OSError):  # the next open of the store deletes it
            self.deletes.run([window.file.name])

    def drop(self, staged: StagedFile, windows: list[Window]) -> None:
        """Delete windows' rows and forget the windows; the next commit deletes their files.

        Call it at the end of a change of the index: if the change fails, the rows come back, but
        the windows in memory do not.
        """
        for window in windows:
            key = pair_key(staged.inode, window.number)
            for table in (Table.STAGED, Table.LOST):
                value = self._index.get(table, key)
                # The row may be that of an older window, dropped before or to be dropped later.
                row = None if value is None else StagedWindow.from_bytes(value)
                if row is not None and row.generation == window.generation:
                    self._index.delete(table, key)
        for window in windows:
            window.file.forget()
            self.deletes.delete_after_commit(window.file.name)
            if staged.windows.get(window.number) is window:
                del staged.windows[window.number]

    def drop_superseded(self, staged: StagedFile, windows: Iterable[Window]) -> None:
        """Drop windows that a truncation superseded, as `drop` does."""
        dropped = list(windows)
        generations = {window.generation for window in dropped}
        self.drop(staged, dropped)
        staged.superseded = [
            window for window in staged.superseded if window.generation not in generations
        ]

    def descriptor(self, window: Window) -> Descriptor:
        """Return a window's open file for a write; make it if it does not exist.

        Raises:
            OSError: the file cannot be opened or created.
        """
        create = not window.ranges
        if len(self._kept) >= self._kept_max:
            next(iter(self._kept)).sync()
        file = window.file.descriptor(create=create)
        self._created += create
        return file

    # -- durability

    def sync(self, inode: InodeNumber, windows: list[Window]) -> int:
        """Make the bytes of windows durable, and the names of their files. Any thread.

        A window that was dropped meanwhile is skipped; its flush will be void.

        Returns:
            The errno of a write-back that failed, 0 if none did. The bytes that it was to write
            are then lost.

        Raises:
            OSError: a staging file cannot be opened, or its name is not durable.
        """
        error = 0
        for window in windows:
            try:
                error = window.file.sync() or error
            except FileNotFoundError:
                staged = self.find(inode)
                current = None if staged is None else staged.windows.get(window.number)
                if current is not None and current.generation == window.generation:
                    raise
        if (created := self._created) != self._created_durable:
            self.directory.sync()
            self._created_durable = created
        return error

    def record(self, inode: InodeNumber, window: Window, lost_before: RangeSet) -> None:
        """Record in the index that a window's ranges are durable, except those that are lost.

        Args:
            inode: of the file.
            window: in a frozen state.
            lost_before: ranges that were lost at the freeze. Those that were written again since
                are not durable yet.
        """
        key = pair_key(inode, window.number)
        window.file.recorded = True
        self._index.put(
            Table.STAGED, key, StagedWindow(window.generation, window.ranges).to_bytes()
        )
        lost = window.lost()
        lost.update(window.ranges.common(lost_before))
        if lost:
            self._index.put(Table.LOST, key, StagedWindow(window.generation, lost).to_bytes())
        elif self._index.get(Table.LOST, key) is not None:
            self._index.delete(Table.LOST, key)

    def record_visible_to(self, inode: InodeNumber, visible_to: int | None) -> None:
        """Record in the index the offset from which an inode's map is hidden; None: visible."""
        if visible_to is None:
            self._index.delete(Table.TRIMS, number_key(inode))
        else:
            self._index.put(Table.TRIMS, number_key(inode), number_key(visible_to))

    # -- opening and closing a store

    def recorded(self) -> Iterator[StagedFile]:
        """Yield the staged states in the index, except damaged ones."""
        windows: dict[InodeNumber, dict[int, Window]] = {}
        for key, value in self._index.pages(Table.STAGED):
            try:
                window = self._recorded(key, value)
            except CorruptIndex as exc:
                log.error("the row of staged window %s is damaged: %s", key.hex(), exc)
                self.damaged = True
                continue
            windows.setdefault(InodeNumber(number_of(key)), {})[window.number] = window
        trims = {
            InodeNumber(number_of(key)): number_of(value)
            for key, value in self._index.pages(Table.TRIMS)
        }
        for inode in sorted(windows.keys() | trims.keys()):
            try:
                yield self._state(inode, windows.get(inode, {}), trims.get(inode))
            except (NotFound, CorruptIndex) as exc:
                log.error("staged content of inode %d cannot be loaded: %s", inode, exc)
                self.damaged = True

    def _recorded(self, key: bytes, value: bytes) -> Window:
        """Return the window of a row, with the states of its bytes.

        Raises:
            CorruptIndex: the row is damaged, or the one with its lost ranges.
        """
        inode, number = pair_of(key)
        row = StagedWindow.from_bytes(value)
        start = number * WINDOW
        lost = RangeSet()
        if (lost_value := self._index.get(Table.LOST, key)) is not None:
            lost_row = StagedWindow.from_bytes(lost_value)
            if lost_row.generation == row.generation:
                lost = lost_row.ranges.shifted(-start)
        # A killed process may have rewritten bytes that no fsync has made durable since.
        written = row.ranges.shifted(-start)
        for low, high in lost:
            written.remove(low, high)
        file = self._file(InodeNumber(inode), number, row.generation, written=written, lost=lost)
        file.recorded = True
        return Window(number, row.generation, file, row.ranges)

    def _state(
        self, inode: InodeNumber, windows: dict[int, Window], visible_to: int | None
    ) -> StagedFile:
        if (value := self._index.get(Table.INODES, number_key(inode))) is None:
            raise NotFound(f"inode {inode}")
        node = Inode.from_bytes(inode, value)
        for window in windows.values():
            # Its row may have ranges that a truncation has cut off. So the next flush writes the
            # row again, before the recorded size can reach into them.
            window.dirty = True
            if window.ranges.stop > node.size:
                # A truncation cut them off. The inode record has it, the window's row has not yet.
                window.file.cut(max(0, node.size - window.start), WINDOW)
                window.ranges.remove(node.size, window.ranges.stop)
        return StagedFile(
            inode,
            node.size,
            node.mtime_ns,
            node.ctime_ns,
            size_floor=node.size,
            map_visible_to=visible_to,
            windows=windows,
            dirty=bool(windows),
        )

    def start_generations_at(self, generation: int) -> None:
        """Set the newest generation that is in use."""
        self._generation = generation

    def unmentioned(self) -> list[str]:
        """Return the names of staging files that no row mentions; none if rows are damaged.

        Files with any other name are not modelfs's, and are left out.
        """
        mentioned = {window.file.name for staged in self for window in staged.windows.values()}
        if self.damaged:  # set by the walk above, if this is beside a writer
            return []
        files = filter(is_window_name, self.directory.names())
        return [name for name in files if name not in mentioned]

    def close(self) -> None:
        """Close the files; `descriptor` opens them again."""
        self._files.clear()
