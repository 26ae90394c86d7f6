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
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from modelfs.errors import CorruptIndex, NotFound, StoreNotTrusted
from modelfs.store.directory import Directory
from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import Descriptor, Descriptors, share_of_limit
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.staged_checksums import (
    BYTES_MAX,
    checksum_of,
    is_intact,
    put_checksum,
    remove_checksum,
    windows_with_checksums,
)
from modelfs.store.files.staged_file import WINDOW, StagedFile, Window, window_name, window_of
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Inode, WindowRanges
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, pair_key, pair_of

log = logging.getLogger(__name__)

# The most staging files that keep a descriptor because not all of their bytes are durable. If there
# are more, writes wait for a flush of the oldest.
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
        # The inodes with damaged rows. Files without a row may then be needed for a repair.
        self.damaged: set[InodeNumber] = set()
        self._generation = 0
        self._intact: set[str] = set()  # windows that a reader has compared with their checksums
        # The staging files that keep a descriptor, oldest first: see `WindowFile`.
        self._kept: dict[WindowFile, None] = {}
        self.kept_max = min(KEPT_MAX, share_of_limit(4))
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
        """Return the staged state of an inode, None if it has none.

        Raises, beside a writer:
            CorruptIndex: a row of it is damaged, or missing.
        """
        if not self._index.others_write:
            return self._staged.get(inode)
        keys = pair_key(inode, 0), pair_key(inode + 1, 0)
        windows: dict[int, Window] = {}
        for key, value in self._index.pages(Table.STAGED, *keys):
            window = self._recorded(key, value)
            windows[window.number] = window
        trim = self._index.get(Table.TRIMS, number_key(inode))
        if trim is None and not windows:
            return None
        rows = len(windows) + (trim is not None)
        rows += sum(1 for _ in self._index.pages(Table.LOST, *keys))
        return self._state(inode, windows, None if trim is None else number_of(trim), rows)

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
        kept = None if self._index.others_write else self._kept
        return WindowFile(self._files, name, kept, **states)

    def supersede(self, staged: StagedFile, window: Window) -> None:
        """Keep the row and the file of a window that a truncation has cut off.

        Without a row, its file is deleted at once: a program that truncates its file again and
        again would leave one for each truncation until the next commit.
        """
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
                row = None if value is None else WindowRanges.from_bytes(value)
                if row is not None and row.generation == window.generation:
                    self._delete_row(table, staged.inode, key)
        for window in windows:
            window.file.forget()
            self.deletes.delete_after_commit(window.file.name)
            if staged.windows.get(window.number) is window:
                del staged.windows[window.number]

    def delete_rows(self, inode: InodeNumber) -> None:
        """Delete the rows of an inode that is removed, damaged ones too."""
        for table in (Table.STAGED, Table.LOST):
            keys = pair_key(inode, 0), pair_key(inode + 1, 0)
            damaged: set[bytes] = set()
            for key in (
                *(key for key, _ in self._index.pages(table, *keys, damaged=damaged)),
                *damaged,
            ):
                self._index.delete(table, key)

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
        file = window.file.descriptor(create=create)
        self._created += create
        return file

    # -- durability

    def crowded(self) -> list[InodeNumber]:
        """Return the files to flush because too many staging files keep a descriptor."""
        excess = len(self._kept) - self.kept_max
        if excess <= 0:
            return []
        oldest = set(list(self._kept)[:excess])  # of a copy, because other threads change it
        return [
            staged.inode
            for staged in self._staged.values()
            if any(w.file in oldest for w in (*staged.windows.values(), *staged.superseded))
        ]

    def sync(self, inode: InodeNumber, windows: list[Window]) -> None:
        """Make the bytes of windows durable, and the names of their files. Any thread.

        Bytes that the disk fails to write are lost from then on: see `WindowFile`. A window that
        was dropped meanwhile is skipped.

        Raises:
            OSError: a staging file cannot be opened, or its name is not durable.
        """
        for window in windows:
            try:
                window.file.sync()
            except FileNotFoundError:
                staged = self.find(inode)
                current = None if staged is None else staged.windows.get(window.number)
                if current is not None and current.generation == window.generation:
                    raise
        if (created := self._created) != self._created_durable:
            self.directory.sync()
            self._created_durable = created

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
        row = WindowRanges(window.generation, window.ranges)
        self._put_row(Table.STAGED, inode, key, row.to_bytes())
        lost = window.lost()
        lost.update(window.ranges.common(lost_before))
        if lost:
            row = WindowRanges(window.generation, lost)
            self._put_row(Table.LOST, inode, key, row.to_bytes())
        else:
            self._delete_row(Table.LOST, inode, key)

    def record_visible_to(self, inode: InodeNumber, visible_to: int | None) -> None:
        """Record in the index the offset from which an inode's map is hidden; None: visible."""
        if visible_to is None:
            self._delete_row(Table.TRIMS, inode, number_key(inode))
        else:
            self._put_row(Table.TRIMS, inode, number_key(inode), number_key(visible_to))

    def _put_row(self, table: Table, inode: InodeNumber, key: bytes, value: bytes) -> None:
        is_new = not self._index.has(table, key)
        self._index.put(table, key, value)
        add_to_totals(self._index, inode, staging_rows=int(is_new))

    def _delete_row(self, table: Table, inode: InodeNumber, key: bytes) -> None:
        if self._index.has(table, key):
            self._index.delete(table, key)
            add_to_totals(self._index, inode, staging_rows=-1)

    # -- opening and closing a store

    def recorded(self) -> Iterator[StagedFile]:
        """Yield the staged states in the index, except damaged ones."""
        rows: Counter[InodeNumber] = Counter()
        trims: dict[InodeNumber, int] = {}
        windows: dict[InodeNumber, dict[int, Window]] = {}
        damaged: set[bytes] = set()
        for key, value in self._index.pages(Table.TRIMS, damaged=damaged):
            trims[InodeNumber(number_of(key))] = number_of(value)
        rows.update(trims.keys())
        rows.update(InodeNumber(number_of(key)) for key in self._index.keys(Table.LOST))
        for key, value in self._index.pages(Table.STAGED, damaged=damaged):
            inode = InodeNumber(number_of(key))
            rows[inode] += 1
            try:
                window = self._recorded(key, value)
            except CorruptIndex:
                damaged.add(key)
            else:
                windows.setdefault(inode, {})[window.number] = window
        for inode in {InodeNumber(number_of(key)) for key in damaged}:
            self._refuse(inode, "a row is damaged")
        for inode in sorted((windows.keys() | trims.keys()) - self.damaged):
            try:
                yield self._state(inode, windows.get(inode, {}), trims.get(inode), rows[inode])
            except (NotFound, CorruptIndex) as exc:
                self._refuse(inode, exc)

    def _refuse(self, inode: InodeNumber, problem: object) -> None:
        log.error("the staged content of inode %d cannot be loaded: %s", inode, problem)
        self.damaged.add(inode)

    def check_none(self, node: Inode) -> None:
        """Check that an inode without a staged state has no staged content.

        Raises:
            CorruptIndex: it has, but rows are damaged or missing, so its content is unknown.
        """
        if node.staging_rows or node.inode in self.damaged:
            raise CorruptIndex(f"the staging rows of inode {node.inode} are damaged")

    def _recorded(self, key: bytes, value: bytes) -> Window:
        """Return the window of a row, with the states of its bytes.

        Raises:
            CorruptIndex: the row is damaged, or the one with its lost ranges.
        """
        inode, number = pair_of(key)
        row = WindowRanges.from_bytes(value)
        start = number * WINDOW
        lost = RangeSet()
        if (lost_value := self._index.get(Table.LOST, key)) is not None:
            lost_row = WindowRanges.from_bytes(lost_value)
            if lost_row.generation == row.generation:
                lost = lost_row.ranges.shifted(-start)
        name = window_name(inode, number, row.generation)
        if self._index.others_write and name not in self._intact:
            if is_intact(self._index, self.directory, key, row):
                self._intact.add(name)
            else:
                lost = row.ranges.shifted(-start)
        # A killed process may have rewritten bytes that no fsync has made durable since.
        written = row.ranges.shifted(-start)
        for low, high in lost:
            written.remove(low, high)
        file = self._file(InodeNumber(inode), number, row.generation, written=written, lost=lost)
        file.recorded = True
        return Window(number, row.generation, file, row.ranges)

    def _state(
        self, inode: InodeNumber, windows: dict[int, Window], visible_to: int | None, rows: int
    ) -> StagedFile:
        """Return the staged state of an inode that has `rows` staging rows."""
        if (value := self._index.get(Table.INODES, number_key(inode))) is None:
            raise NotFound(f"inode {inode}")
        node = Inode.from_bytes(inode, value)
        if rows < node.staging_rows:
            missing = node.staging_rows - rows
            raise CorruptIndex(f"{missing} staging rows of inode {inode} are missing")
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

    def check_recorded(self) -> None:
        """Compare the loaded windows with their checksums, and note the bytes that are lost."""
        for key in windows_with_checksums(self._index):
            if (found := self._loaded(key)) is None:
                continue
            row, window = found
            if not is_intact(self._index, self.directory, key, row):
                log.error("staged bytes of inode %d do not match their checksum", number_of(key))
                window.file.lose(row.ranges.shifted(-window.start))

    def remove_checksums(self) -> None:
        """Remove the checksums from the index, and record the bytes that are lost. For the owner.

        The caller commits that before any byte changes.
        """
        keys = windows_with_checksums(self._index)
        with self._index.change() if keys else contextlib.nullcontext():
            for key in keys:
                remove_checksum(self._index, key)
                found = self._loaded(key)
                if found is not None and found[1].lost():
                    self.record(InodeNumber(number_of(key)), found[1], RangeSet())

    def add_checksums(self) -> None:
        """Record checksums of windows, all of whose bytes are durable and will not change."""
        left = BYTES_MAX
        keys = [
            pair_key(staged.inode, number) for staged in self for number in sorted(staged.windows)
        ]
        with self._index.change() if keys else contextlib.nullcontext():
            for key in keys:
                if (found := self._loaded(key)) is None or found[1].lost():
                    continue
                row, _ = found
                left -= row.ranges.size
                # Without a checksum it is as after a crash.
                with contextlib.suppress(OSError, StoreNotTrusted):
                    if left >= 0:
                        value = checksum_of(self.directory, key, row)
                        put_checksum(self._index, key, row, value)

    def _loaded(self, key: bytes) -> tuple[WindowRanges, Window] | None:
        """Return the row of a window and the window, if it is loaded and the row is of it."""
        try:
            inode, number = pair_of(key)
            value = self._index.get(Table.STAGED, key)
            row = None if value is None else WindowRanges.from_bytes(value)
        except CorruptIndex:
            return None
        staged = self._staged.get(InodeNumber(inode))
        window = None if staged is None else staged.windows.get(number)
        if row is None or window is None or row.generation != window.generation:
            return None
        return row, window

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
        files = filter(window_of, self.directory.names())
        return [name for name in files if name not in mentioned]

    def close(self) -> None:
        """Close the files; `descriptor` opens them again."""
        self._files.clear()
