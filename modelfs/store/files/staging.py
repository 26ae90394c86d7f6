"""Staging: written bytes that are not in chunks yet.

Theory of operation. A file's content is its committed map overlaid by staged ranges. Staged bytes
lie in plain sparse files, one for each *window* of `WINDOW` bytes of the file, at their offset in
the window. Writes in any order, holes and rewrites work, and a write at offset 10^15 costs no more
than one at 0. A window's own file is never cut or punched. When its content has become chunks, or
a truncation cut the window off, the whole window is dropped, and its file is deleted once the index
that no longer mentions it is durable. Planned reads keep their descriptor, so no lock and no grace
period is needed. A window that begins again gets a new generation, and so a new file.

The index has the state of the last flush: the size, the times, and the generation and ranges of
each window. A truncation hides the committed map from `map_visible_to` on; the extents behind it
are removed later, in slices. A window that has a row, and that a truncation cuts off, is only
*superseded*: its row and its file stay until a flush or ingest replaces them. So a crash leaves a
file as its last flush recorded it, but bytes that were rewritten inside durable ranges may be the
old or the new ones, as on other file systems.

A file that the kernel itself writes for programs has one *whole* staging file, which all of its
windows share: see `whole_file`.

The version of a window counts the beginning and the end of each write, and cuts. Ingest compares it
before and after it reads, and so sees whether the bytes have changed.

Example. A program writes 100 MiB to inode 5: windows 0 and 1 get the files 5-0-1 and 5-1-2. A flush
syncs both and records their ranges. Ingest makes chunks of window 0: in one change of the index the
map gets its extents and the row of window 0 is deleted. The next commit deletes 5-0-1. The program
writes at offset 0 again: window 0 begins again, with the file 5-0-3.

A process that reads beside a writer keeps no staged state in memory: it finds the state in the
index (see `staging_rows`), as of the commit that it reads. It keeps the names of the windows that
it has compared with their checksums.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Final

from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import Descriptor, Descriptors, share_of_limit
from modelfs.store.disk.directory import Directory
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.staging_rows import StagingRows
from modelfs.store.files.whole_file import RANGES_MAX, WholeFile
from modelfs.store.files.whole_files import WholeFiles
from modelfs.store.files.window import (
    DIVIDED,
    GENERATION_BITS,
    StagedSum,
    Window,
    window_name,
    window_of,
)
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# The most staging files that keep a descriptor because not all of their bytes are durable. If there
# are more, writes wait for a flush of the oldest.
KEPT_MAX: Final = 8192


class Staging:
    """The staging files of a store, and the staged state of their inodes in memory."""

    def __init__(self, folder: Directory, index: Index, *, read_only: bool = False) -> None:
        self.directory = folder
        self._index = index
        self._others_write = index.rows.others_write
        self._files = Descriptors(folder, os.O_RDONLY if read_only else os.O_RDWR)
        self.deletes = DeferredDeletes(folder, self._files)
        self._staged: dict[InodeNumber, StagedFile] = {}
        self._sum = StagedSum()
        self._generation = 0
        # The staging files that keep a descriptor, oldest first: see `WindowFile`.
        self._kept: dict[WindowFile, None] = {}
        self.kept_max = min(KEPT_MAX, share_of_limit(4))
        self.wholes = WholeFiles(folder, index, self._files, self._kept, self.deletes, self._sum)
        self.rows = StagingRows(
            index,
            folder,
            self._files,
            self.wholes.descriptors,
            None if self._others_write else self._kept,
        )
        # How often a file was created, and how many of these names the last fsync of the folder
        # made durable. Numbers and no flag: a file that is created during an fsync of the folder
        # may not be durable, and another thread's fsync may still fail.
        self._created = 0
        self._created_durable = 0

    def __iter__(self) -> Iterator[StagedFile]:
        return self.rows.states() if self._others_write else iter(list(self._staged.values()))

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._others_write else len(self._staged)

    def find(self, inode: InodeNumber) -> StagedFile | None:
        """Return the staged state of an inode as it is now, None if it has none.

        Raises, beside a writer:
            CorruptIndex: a row of it is damaged, or missing.
        """
        staged = self.peek(inode)
        if staged is not None and staged.whole is not None and staged.whole.live:
            self.wholes.follow(staged)
        return staged

    def peek(self, inode: InodeNumber) -> StagedFile | None:
        """Return the staged state of an inode as of the last look at it. Raises as `find`."""
        return self.rows.find(inode) if self._others_write else self._staged.get(inode)

    def follow_writers(self) -> None:
        """Look at each whole file that the kernel may write, so that changes of it are flushed."""
        for staged in self._staged.values():
            whole = staged.whole
            if whole is not None and whole.live and (whole.writing or not staged.dirty):
                try:
                    self.wholes.follow(staged)
                except OSError as exc:
                    log.warning("the staging file of inode %d: %s", staged.inode, exc)

    @property
    def bytes(self) -> int:
        """The number of staged bytes of all files. Any thread, but beside a writer it is a walk."""
        if self._others_write:
            return sum(staged.staged_bytes for staged in self)
        return self._sum.bytes

    def adopt(self, staged: StagedFile) -> StagedFile:
        """Keep the staged state of an inode, unless there is one already. Return the kept one."""
        kept = self._staged.setdefault(staged.inode, staged)
        for window in kept.windows.values():
            window.count_in(self._sum)
        return kept

    def release(self, inode: InodeNumber) -> None:
        """Drop an inode's staged state, because the inode record and the map are complete."""
        staged = self._staged.pop(inode)
        assert not staged.windows, "released with staged bytes"
        assert staged.whole is None, "released with a whole file"

    # -- windows

    def window(self, staged: StagedFile, number: int) -> Window:
        """Return a window of a file for a write. Begins one if there is none."""
        window = staged.windows.get(number)
        if window is None:
            window = self._new_window(staged, number)
            staged.windows[number] = window
        return window

    def _new_window(self, staged: StagedFile, number: int) -> Window:
        if (whole := staged.whole) is not None:
            return Window(number, whole.generation, whole, counted_in=self._sum)
        generation = self._next_generation()
        name = window_name(staged.inode, number, generation)
        file = WindowFile(self._files, name, self._kept)
        return Window(number, generation, file, counted_in=self._sum)

    def begin_whole(self, staged: StagedFile) -> WholeFile:
        """Give a file without content a whole staging file, which the kernel may write.

        Raises:
            OSError: it cannot be made.
        """
        whole = self.wholes.begin(staged, self._next_generation())
        self._created += 1
        return whole

    def new_copy(self, inode: InodeNumber) -> WholeFile:
        """Make the empty file of a copy; `Copies.add` or `WholeFiles.discard` follows.

        Raises:
            OSError: it cannot be made.
        """
        return self.wholes.new_copy(inode, self._next_generation())

    def divide(self, staged: StagedFile) -> bool:
        """Let the windows of a whole file be as those with files of their own: see `whole_file`.

        Returns:
            Whether they are. Not if the file was changed since its last flush, or programs use it.
        """
        whole = staged.whole
        assert whole is not None, "no whole file"
        if staged.dirty or staged.flushing or staged.lost_bytes or not whole.is_unused():
            return False
        if sum(len(window.ranges) for window in staged.windows.values()) >= RANGES_MAX:
            return False  # rows of a divided file have the holes, and these may not have them all
        with self._index.change():
            for window in staged.windows.values():
                divided = dataclasses.replace(window, generation=window.generation | DIVIDED)
                self.rows.record(staged.inode, divided, RangeSet())
        for window in staged.windows.values():
            window.generation |= DIVIDED
        whole.divided = True
        staged.whole = None
        staged.generation += 1
        return True

    def _next_generation(self) -> int:
        self._generation = (self._generation + 1) % (1 << GENERATION_BITS)
        return self._generation

    def supersede(self, staged: StagedFile, window: Window) -> None:
        """Keep the row and the file of a window that a truncation has cut off.

        Without a row, its file is deleted at once: a program that truncates its file again and
        again would leave one for each truncation until the next commit.
        """
        window.count_in(None)
        if window.recorded:
            staged.superseded.append(window)
        if window.recorded or window.shares_file:
            return
        window.file.forget()
        deleted = [window.file.name]
        self.deletes.run(deleted)
        self.deletes.restore(deleted)

    def drop(self, staged: StagedFile, windows: list[Window]) -> None:
        """Delete windows' rows and forget the windows; the next commit deletes their files.

        Call it at the end of a change of the index: if the change fails, the rows come back, but
        the windows in memory do not.
        """
        for window in windows:
            self.rows.delete(staged.inode, window)
        for window in windows:
            window.count_in(None)
            if not window.shares_file:
                window.file.forget()
                self.deletes.after_commit(window.file.name)
            if staged.windows.get(window.number) is window:
                del staged.windows[window.number]
        self.wholes.give_back(staged, [window for window in windows if window.is_divided])

    def drop_superseded(self, staged: StagedFile, windows: Iterable[Window]) -> None:
        """Drop windows that a truncation superseded, as `drop` does."""
        dropped = list(windows)
        self.drop(staged, dropped)
        # By file and number: windows of one whole file have one generation, and `dropped` may have
        # copies.
        places = {(window.number, window.generation) for window in dropped}
        staged.superseded = [
            window
            for window in staged.superseded
            if (window.number, window.generation) not in places
        ]
        self.wholes.delete_superseded(staged, dropped)

    def descriptor(self, window: Window) -> Descriptor:
        """Return a window's open file for a write; make it if it does not exist.

        Raises:
            OSError: the file cannot be opened or created.
        """
        if isinstance(window.file, WholeFile):
            return window.file.writable_descriptor()
        create = not window.ranges
        file = window.file.descriptor(create=create)
        self._created += create
        return file

    # -- durability

    @property
    def is_crowded(self) -> bool:
        """Whether half of the staging files that may keep a descriptor do so."""
        return len(self._kept) > self.kept_max // 2

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
        for file, window in {window.file: window for window in windows}.items():
            try:
                file.sync()
            except FileNotFoundError:
                staged = self._staged.get(inode)
                current = None if staged is None else staged.windows.get(window.number)
                if current is not None and current.generation == window.generation:
                    raise
        if (created := self._created) != self._created_durable:
            self.directory.sync()
            self._created_durable = created

    # -- opening and closing a store

    def start_generations_at(self, generation: int) -> None:
        """Set the newest generation that is in use."""
        self._generation = generation

    def unmentioned(self) -> list[str]:
        """Return the names of staging files that no row mentions; none if rows are damaged.

        Files with any other name are not modelfs's, and are left out.
        """
        mentioned = {window.file.name for staged in self for window in staged.windows.values()}
        if self.rows.damaged:  # set by the walk above, if this is beside a writer
            return []
        files = filter(window_of, self.directory.names())
        return [name for name in files if name not in mentioned]

    def close(self) -> None:
        """Close the files; `descriptor` opens them again."""
        self._files.clear()
        self.wholes.descriptors.clear()
