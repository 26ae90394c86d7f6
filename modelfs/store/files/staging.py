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

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelfs.errors import CorruptIndex, NotFound
from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import Descriptor, Descriptors, sync, sync_folder
from modelfs.store.files.staged_file import StagedFile, Window, window_name
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Inode, StagedWindow
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, pair_key, pair_of

log = logging.getLogger(__name__)


class Staging:
    """The staging files of a store, and the staged state of their inodes in memory."""

    def __init__(self, folder: Path, index: Index, *, read_only: bool = False) -> None:
        self.folder = folder
        self._index = index
        self._files = Descriptors(folder, os.O_RDONLY if read_only else os.O_RDWR)
        self.deletes = DeferredDeletes(folder, self._files)
        self._staged: dict[InodeNumber, StagedFile] = {}
        self.damaged = False  # rows are damaged, so files without a row may be needed for a repair
        self._generation = 0
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
            row = StagedWindow.from_bytes(value)
            number = pair_of(key)[1]
            windows[number] = Window(number, row.generation, row.ranges)
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
            window = staged.windows[number] = Window(number, self._generation)
        return window

    def supersede(self, staged: StagedFile, window: Window) -> None:
        """Cut off a window, because the file was truncated. Its row and its file stay for now."""
        del staged.windows[window.number]
        staged.superseded.append(window)

    def drop(self, staged: StagedFile, windows: list[Window]) -> None:
        """Delete windows' rows and forget the windows; the next commit deletes their files.

        Call it at the end of a change of the index: if the change fails, the rows come back, but
        the windows in memory do not.
        """
        for window in windows:
            key = pair_key(staged.inode, window.number)
            value = self._index.get(Table.STAGED, key)
            # The row may be that of an older window, dropped before or to be dropped later.
            row = None if value is None else StagedWindow.from_bytes(value)
            if row is not None and row.generation == window.generation:
                self._index.delete(Table.STAGED, key)
        for window in windows:
            self.deletes.delete_after_commit(
                window_name(staged.inode, window.number, window.generation)
            )
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

    def descriptor(self, inode: InodeNumber, window: Window, *, create: bool = False) -> Descriptor:
        """Return a window's open file; with `create`, make it if it does not exist.

        Raises:
            OSError: the file cannot be opened or created.
        """
        name = window_name(inode, window.number, window.generation)
        file = self._files.get(name, os.O_CREAT if create else 0)
        self._created += create
        return file

    # -- durability

    def sync(self, inode: InodeNumber, windows: list[Window]) -> None:
        """Make the bytes of windows durable, and the names of their files. Any thread.

        A window that was dropped meanwhile is skipped; its flush will be void.

        Raises:
            OSError: the disk failed; any part of the bytes may not be durable.
        """
        for window in windows:
            try:
                sync(self.descriptor(inode, window))
            except FileNotFoundError:
                staged = self.find(inode)
                current = None if staged is None else staged.windows.get(window.number)
                if current is not None and current.generation == window.generation:
                    raise
        if (created := self._created) != self._created_durable:
            sync_folder(self.folder)
            self._created_durable = created

    def record(self, inode: InodeNumber, window: Window, ranges: RangeSet) -> None:
        """Record in the index that `ranges` of a window are durable."""
        row = StagedWindow(window.generation, ranges)
        self._index.put(Table.STAGED, pair_key(inode, window.number), row.to_bytes())

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
                inode, number = pair_of(key)
                row = StagedWindow.from_bytes(value)
            except CorruptIndex as exc:
                log.error("the row of staged window %s is damaged: %s", key.hex(), exc)
                self.damaged = True
                continue
            window = Window(number, row.generation, row.ranges)
            windows.setdefault(InodeNumber(inode), {})[number] = window
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

    def _state(
        self, inode: InodeNumber, windows: dict[int, Window], visible_to: int | None
    ) -> StagedFile:
        if (value := self._index.get(Table.INODES, number_key(inode))) is None:
            raise NotFound(f"inode {inode}")
        node = Inode.from_bytes(inode, value)
        for window in windows.values():
            # A killed process may have rewritten bytes that no fsync has made durable since. They
            # are read from now on, so the next fsync has to make them durable.
            window.dirty = True
            if window.ranges.stop > node.size:
                # A truncation cut them off. The inode record has it, the window's row has not yet.
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
        """Return the names of staging files that no row mentions; none if rows are damaged."""
        mentioned = {
            window_name(staged.inode, window.number, window.generation)
            for staged in self
            for window in staged.windows.values()
        }
        if self.damaged:  # beside a writer, the look at the rows finds that
            return []
        return [path.name for path in self.folder.iterdir() if path.name not in mentioned]

    def close(self) -> None:
        """Close the files; `descriptor` opens them again."""
        self._files.clear()
