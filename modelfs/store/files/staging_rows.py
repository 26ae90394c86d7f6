"""The rows of staged content in the index: the state of each staged file as of its last flush.

Theory of operation. A file has a row in `staged` for each window: the generation and the ranges,
which are durable. If the disk has lost some of them, the window's row in `lost` has these. A row in
`trims` has the offset from which the map is hidden. The inode's record has the size and the times,
and the number of the file's rows in these tables: a change of the rows changes this number, too
(see `inode_totals`). If rows are damaged, or fewer than the record counts, the content of the file
is unknown, and its reads fail.

Example. A flush records 100 MiB of inode 5: rows of the windows 0 and 1, and a total of 2. The file
is truncated to 10 bytes, and a trim records that size and deletes row 1: the total is 1. After a
crash the next process finds row 0 with 64 MiB, and cuts its range to 10 bytes. If it finds no row,
because the disk has an older page of the index, reads of inode 5 raise `CorruptIndex`.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial

from modelfs.errors import CorruptIndex, NotFound
from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory
from modelfs.store.files.divided import holes_of
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.staged_checksums import has_checksum, is_intact, windows_with_checksums
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.files.window import (
    DIVIDED,
    WHOLE,
    WINDOW,
    Window,
    is_whole,
    origin_of,
    window_name,
    windows_of,
)
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Inode, WindowRanges
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, pair_key, pair_of

log = logging.getLogger(__name__)


class StagingRows:
    """Reads and writes the staged states of files in the index."""

    def __init__(
        self,
        index: Index,
        folder: Directory,
        files: Descriptors,
        whole_files: Descriptors,
        kept: dict[WindowFile, None] | None,
    ) -> None:
        """Prepare to read rows.

        Args:
            index: has the rows.
            folder: of the staging files.
            files: opens the staging files.
            whole_files: opens whole ones.
            kept: for the `WindowFile` of each window that is read.
        """
        self._index = index
        self._folder = folder
        self._files = files
        self._whole_files = whole_files
        self._kept = kept
        # The inodes with damaged rows. Files without a row may then be needed for a repair.
        self.damaged: set[InodeNumber] = set()
        # Windows that a reader has compared with their checksums: names of files, and numbers.
        self._intact: set[tuple[str, int]] = set()

    # -- reading

    def find(self, inode: InodeNumber) -> StagedFile | None:
        """Return the staged state of an inode, None if it has none.

        Raises:
            CorruptIndex: a row of it is damaged, or missing.
        """
        keys = pair_key(inode, 0), pair_key(inode + 1, 0)
        windows: dict[int, Window] = {}
        for key, value in self._index.pages(Table.STAGED, *keys):
            self._add_window(windows, key, value)
        trim = self._index.get(Table.TRIMS, number_key(inode))
        if trim is None and not windows:
            return None
        rows = len(windows) + (trim is not None)
        rows += sum(1 for _ in self._index.pages(Table.LOST, *keys))
        rows += len(windows_with_checksums(self._index, inode))
        return self._state(inode, windows, None if trim is None else number_of(trim), rows)

    def states(self) -> Iterator[StagedFile]:
        """Yield the staged states of all inodes, except damaged ones, which `damaged` gets."""
        rows: Counter[InodeNumber] = Counter()
        trims: dict[InodeNumber, int] = {}
        windows: dict[InodeNumber, dict[int, Window]] = {}
        damaged: set[bytes] = set()
        for key, value in self._index.pages(Table.TRIMS, damaged=damaged):
            trims[InodeNumber(number_of(key))] = number_of(value)
        rows.update(trims.keys())
        rows.update(InodeNumber(number_of(key)) for key in self._index.keys(Table.LOST))
        rows.update(InodeNumber(number_of(key)) for key in windows_with_checksums(self._index))
        for key, value in self._index.pages(Table.STAGED, damaged=damaged):
            inode = InodeNumber(number_of(key))
            rows[inode] += 1
            try:
                self._add_window(windows.setdefault(inode, {}), key, value)
            except CorruptIndex:
                damaged.add(key)
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

    def _add_window(self, windows: dict[int, Window], key: bytes, value: bytes) -> None:
        """Add the window of a row to those of its inode, with the states of its bytes.

        Raises:
            CorruptIndex: the row is damaged, or the one with its lost ranges.
        """
        inode, number = pair_of(key)
        row = WindowRanges.from_bytes(value)
        origin = origin_of(number, row.generation)
        lost = RangeSet()
        if (lost_value := self._index.get(Table.LOST, key)) is not None:
            lost_row = WindowRanges.from_bytes(lost_value)
            if lost_row.generation == row.generation:
                lost = lost_row.ranges.shifted(-origin)
        name = window_name(inode, number, row.generation)
        if self._index.rows.others_write and (name, number) not in self._intact:
            if is_intact(self._index, self._folder, key, row):
                self._intact.add((name, number))
            else:
                lost = row.ranges.shifted(-origin)
        lost.update(holes_of(self._folder, key, row).shifted(-origin))
        # A killed process may have rewritten bytes that no fsync has made durable since.
        file: WindowFile
        written = row.ranges.shifted(-origin)
        for low, high in lost:
            written.remove(low, high)
        if row.generation & WHOLE:
            file = whole = self._whole_file(windows, InodeNumber(inode), number, row.generation)
            whole.divided = not is_whole(row.generation)
            # A repair may have made all bytes of a window lost ones.
            is_lost = bool(row.ranges) and not written
            is_exact = whole.divided or is_lost or has_checksum(self._index, key, row)
            whole.resume(written, lost, is_exact=is_exact)
        else:
            file = WindowFile(self._files, name, self._kept, written=written, lost=lost)
        windows[number] = Window(number, row.generation, file, row.ranges, recorded=True)

    def _whole_file(
        self, windows: dict[int, Window], inode: InodeNumber, number: int, generation: int
    ) -> WholeFile:
        """Return the whole file of a window's row, which other windows may have, too."""
        for window in windows.values():
            if isinstance(window.file, WholeFile) and window.generation == generation:
                return window.file
        name = window_name(inode, number, generation)
        whole = WholeFile(self._whole_files, self._files, name, self._kept, generation, live=False)
        if self._index.rows.others_write:
            whole.has_rows = partial(self._has_rows, inode, number, generation)
        return whole

    def _has_rows(
        self, inode: InodeNumber, first: int, generation: int, start: int, stop: int
    ) -> bool:
        """Whether the last commit has the rows by which a range of a whole file was planned.

        Args:
            inode: of the file.
            first: a window that had a row. While it has, a file that is not divided has no hole.
            generation: of the rows.
            start: of the range.
            stop: of the range.
        """
        numbers = windows_of(start, stop) if generation & DIVIDED else {first}
        rows = (self._index.rows.newest(Table.STAGED, pair_key(inode, at)) for at in numbers)
        return all(
            row is not None and WindowRanges.generation_of(row) == generation for row in rows
        )

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
            if window.ranges.stop > node.size and not window.is_whole:
                # A truncation cut them off. The inode record has it, the window's row has not yet.
                window.file.cut(max(0, node.size - window.start), WINDOW)
                window.ranges.remove(node.size, window.ranges.stop)
        wholes = (
            window.file
            for window in windows.values()
            if window.is_whole and isinstance(window.file, WholeFile)
        )
        staged = StagedFile(
            inode,
            node.size,
            node.mtime_ns,
            node.ctime_ns,
            size_floor=node.size,
            map_visible_to=visible_to,
            windows=windows,
            whole=max(wholes, key=lambda whole: whole.generation, default=None),
            dirty=bool(windows),
        )
        if self._index.rows.others_write and staged.whole is not None and staged.whole.live:
            self._follow(staged, staged.whole)
        return staged

    def _follow(self, staged: StagedFile, whole: WholeFile) -> None:
        """Bring a state beside a writer up to the bytes that its whole file has.

        Raises:
            CorruptIndex: the file was divided since this commit, so it may have holes by now.
        """
        staged.follow_whole()
        if whole.has_rows is not None and not whole.has_rows(0, max(staged.size, 1)):
            raise CorruptIndex(f"the staged content of inode {staged.inode} is in chunks by now")

    # -- writing, inside a change of the index

    def record(self, inode: InodeNumber, window: Window, lost_before: RangeSet) -> None:
        """Record that a window's ranges are durable, except those that are lost.

        Args:
            inode: of the file.
            window: in a frozen state.
            lost_before: ranges that were lost at the freeze. Those that were written again since
                are not durable yet.
        """
        key = pair_key(inode, window.number)
        row = WindowRanges(window.generation, window.ranges)
        self._put(Table.STAGED, inode, key, row.to_bytes())
        lost = window.lost()
        lost.update(window.ranges.common(lost_before))
        if lost:
            row = WindowRanges(window.generation, lost)
            self._put(Table.LOST, inode, key, row.to_bytes())
        else:
            self._delete(Table.LOST, inode, key)

    def record_visible_to(self, inode: InodeNumber, visible_to: int | None) -> None:
        """Record the offset from which an inode's map is hidden; None: it is visible."""
        if visible_to is None:
            self._delete(Table.TRIMS, inode, number_key(inode))
        else:
            self._put(Table.TRIMS, inode, number_key(inode), number_key(visible_to))

    def delete(self, inode: InodeNumber, window: Window) -> None:
        """Delete the rows of a window."""
        key = pair_key(inode, window.number)
        for table in (Table.STAGED, Table.LOST):
            value = self._index.get(table, key)
            # The row may be that of an older window, dropped before or to be dropped later.
            row = None if value is None else WindowRanges.from_bytes(value)
            if row is not None and row.generation == window.generation:
                self._delete(table, inode, key)

    def delete_all(self, inode: InodeNumber) -> None:
        """Delete the rows of all windows of an inode that is removed, damaged ones too."""
        for table in (Table.STAGED, Table.LOST):
            keys = pair_key(inode, 0), pair_key(inode + 1, 0)
            damaged: set[bytes] = set()
            for key in (
                *(key for key, _ in self._index.pages(table, *keys, damaged=damaged)),
                *damaged,
            ):
                self._index.delete(table, key)

    def _put(self, table: Table, inode: InodeNumber, key: bytes, value: bytes) -> None:
        is_new = not self._index.has(table, key)
        self._index.put(table, key, value)
        add_to_totals(self._index, inode, staging_rows=int(is_new))

    def _delete(self, table: Table, inode: InodeNumber, key: bytes) -> None:
        if self._index.has(table, key):
            self._index.delete(table, key)
            add_to_totals(self._index, inode, staging_rows=-1)
