"""Staging: what was written to a file and is not in chunks yet.

Theory of operation. A file's content is its committed map overlaid by staged ranges. Staged bytes
lie in plain sparse files, one for each *window* of `WINDOW` bytes of the file, at their offset in
the window; any order of writes, holes and rewrites work, and a write at offset 10^15 costs no more
than one at 0. A window's file is never cut or punched: when its content has become chunks, or the
file was truncated, the whole window is dropped and its file deleted once the index that no longer
mentions it is durable. Readers that were planned before keep their descriptor, so no lock and no
grace period is needed. A window that is begun again gets a new generation and so a new file.

What the index knows of it is what the last flush made durable: the size, the times, and for each
window its generation and ranges. Truncation hides the committed map from `visible` on; the extents
behind it are removed in slices, later. A window that truncation drops is only *superseded*: its row
and its file stay until a flush or ingest has something newer to put there. So after a crash a file
is what its last flush made it, except that bytes rewritten inside ranges that were already durable
may be there too, as on other file systems.

The version of a window counts the beginning and the end of each write, so that ingest can tell
whether what it read is still what is there.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelfs.errors import CorruptIndex
from modelfs.store.disk.deferred import DeferredDeletes
from modelfs.store.disk.descriptors import Descriptor, Descriptors, sync, sync_folder
from modelfs.store.files.staged_file import StagedFile, Window, window_name
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import StagedWindow
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, pair_key, pair_of

log = logging.getLogger(__name__)


class Staging:
    """The staging files of a store, and the content state of the inodes that have any."""

    def __init__(self, folder: Path, index: Index, *, read_only: bool = False) -> None:
        self.folder = folder
        self._index = index
        self._files = Descriptors(folder, os.O_RDONLY if read_only else os.O_RDWR)
        self.deletes = DeferredDeletes(folder, self._files)
        self._staged: dict[InodeNumber, StagedFile] = {}
        self.damaged = False  # rows were lost, so that files may be of use that no row mentions
        self._generation = 0
        self._created = 0  # counts the times that a file may have been made
        self._named = 0  # as many of them are durable in the folder

    def __iter__(self) -> Iterator[StagedFile]:
        return iter(list(self._staged.values()))

    def __len__(self) -> int:
        return len(self._staged)

    def find(self, inode: InodeNumber) -> StagedFile | None:
        return self._staged.get(inode)

    def adopt(self, staged: StagedFile) -> StagedFile:
        """Begin to keep the content state of an inode."""
        return self._staged.setdefault(staged.inode, staged)

    def release(self, inode: InodeNumber) -> None:
        """Stop keeping it, because the inode record and the map now say everything."""
        staged = self._staged.pop(inode)
        assert not staged.windows, "released with staged bytes"

    def forget_all(self) -> None:
        """Forget the content state of all inodes, to read it from the index once more."""
        self._staged.clear()
        self._files.clear()

    # -- windows

    def window(self, staged: StagedFile, number: int) -> Window:
        """Return a window to write to, a new one if there is none."""
        if (found := staged.windows.get(number)) is not None:
            return found
        self._generation += 1
        window = Window(number, self._generation)
        staged.windows[number] = window
        return window

    def supersede(self, staged: StagedFile, window: Window) -> None:
        """Forget what is staged in a window, because the file was cut before it."""
        del staged.windows[window.number]
        staged.superseded.append(window)

    def drop(self, staged: StagedFile, windows: list[Window]) -> None:
        """Remove windows' rows and forget the windows. Inside a change of the index, at its end.

        The next commit deletes their files.
        """
        recorded = [window for window in windows if self._is_recorded(staged.inode, window)]
        for window in recorded:
            self._index.delete(Table.STAGED, pair_key(staged.inode, window.number))
        for window in windows:
            self.deletes.delete_after_commit(
                window_name(staged.inode, window.number, window.generation)
            )
            if staged.windows.get(window.number) is window:
                del staged.windows[window.number]

    def drop_superseded(self, staged: StagedFile, windows: Iterable[Window]) -> None:
        """Drop windows that a truncation superseded. Last in a change of the index.

        What is dropped from memory does not come back if the change fails.
        """
        gone = list(windows)
        generations = {window.generation for window in gone}
        self.drop(staged, gone)
        staged.superseded = [
            window for window in staged.superseded if window.generation not in generations
        ]

    def _is_recorded(self, inode: InodeNumber, window: Window) -> bool:
        # The row may be that of an older window, dropped earlier or still to be.
        value = self._index.get(Table.STAGED, pair_key(inode, window.number))
        return value is not None and StagedWindow.from_bytes(value).generation == window.generation

    def descriptor(self, inode: InodeNumber, window: Window, *, create: bool = False) -> Descriptor:
        """Return a window's open file.

        Raises:
            OSError: it cannot be opened, or made.
        """
        name = window_name(inode, window.number, window.generation)
        file = self._files.get(name, os.O_CREAT if create else 0)
        self._created += create
        return file

    # -- durability

    def sync(self, inode: InodeNumber, windows: list[Window]) -> None:
        """Make the bytes in windows durable, and their files' names. Any thread.

        Windows that were dropped meanwhile are passed over: then the flush will be void.

        Raises:
            OSError: it is not known what is durable.
        """
        for window in windows:
            try:
                sync(self.descriptor(inode, window))
            except FileNotFoundError:
                if self._has(inode, window):
                    raise
        # A number and no flag: what is created while the folder is synced may not be durable, and
        # another thread's sync may still fail.
        if (created := self._created) != self._named:
            sync_folder(self.folder)
            self._named = created

    def _has(self, inode: InodeNumber, window: Window) -> bool:
        staged = self.find(inode)
        now = None if staged is None else staged.windows.get(window.number)
        return now is not None and now.generation == window.generation

    def record(self, inode: InodeNumber, window: Window, ranges: RangeSet) -> None:
        """Put into the index that `ranges` of a window are durable."""
        row = StagedWindow(window.generation, ranges)
        self._index.put(Table.STAGED, pair_key(inode, window.number), row.to_bytes())

    def record_visible(self, inode: InodeNumber, visible: int | None) -> None:
        """Put into the index from where on an inode's map is not to be seen; None: nowhere."""
        if visible is None:
            self._index.delete(Table.TRIMS, number_key(inode))
        else:
            self._index.put(Table.TRIMS, number_key(inode), number_key(visible))

    # -- opening and closing a store

    def stored(self) -> Iterator[tuple[InodeNumber, dict[int, Window], int | None]]:
        """Yield what the index says is staged: inode, windows, and where its map ends."""
        windows: dict[InodeNumber, dict[int, Window]] = {}
        for key, value in self._index.pages(Table.STAGED):
            try:
                inode, number = pair_of(key)
                row = StagedWindow.from_bytes(value)
            except CorruptIndex as exc:
                log.error("the staged window with key %s is lost: %s", key.hex(), exc)
                self.damaged = True
                continue
            window = Window(number, row.generation, row.ranges)
            windows.setdefault(InodeNumber(inode), {})[number] = window
        trims = {
            InodeNumber(number_of(key)): number_of(value)
            for key, value in self._index.pages(Table.TRIMS)
        }
        for inode in sorted(windows.keys() | trims.keys()):
            yield inode, windows.get(inode, {}), trims.get(inode)

    def start_generations_at(self, generation: int) -> None:
        self._generation = generation

    def unmentioned(self) -> list[str]:
        """Return the staging files that the index does not mention; none if it is damaged."""
        if self.damaged:
            return []
        known = {
            window_name(staged.inode, window.number, window.generation)
            for staged in self
            for window in staged.windows.values()
        }
        return [path.name for path in self.folder.iterdir() if path.name not in known]

    def close(self) -> None:
        self._files.clear()
