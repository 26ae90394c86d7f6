"""The staged state of one file, in memory: its size and times, and its windows of staged bytes.

`files.staging` has the files on the disk and the theory of operation. The owner's thread changes
this state; another thread uses a copy.

Example. A file of 200 MiB is in chunks. A program writes 10 bytes at 70 MiB: window 1 begins (64 to
128 MiB) with the range (70 MiB, 70 MiB + 10), and a flush records it. The program then truncates
the file to 100 bytes: the size is 100, the map is visible to 100, and window 1 is superseded. It
writes 10 bytes at 100: window 0 begins with the range (100, 110), and the size is 110. The bytes
behind 100 of the map stay hidden.
"""

import contextlib
import dataclasses
import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelfs.store.files.clock import later_ns, now_ns
from modelfs.store.files.whole_file import Observed, WholeFile
from modelfs.store.files.window import WINDOW, StagedSum, Stamp, Window, parts_of_windows
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber


@dataclass(slots=True)
class StagedFile:
    """The state of a file whose content differs from its inode record and map."""

    inode: InodeNumber
    size: int
    mtime_ns: int
    ctime_ns: int
    size_floor: int  # the smallest size since the inode record was last changed
    map_visible_to: int | None = None  # the map is hidden from this offset on; None: visible
    windows: dict[int, Window] = field(default_factory=dict)
    superseded: list[Window] = field(default_factory=list)  # cut off, but still in the index
    whole: WholeFile | None = None  # the staging file of all windows, if they share one
    dirty: bool = False  # size, times, `map_visible_to` or a window are not durable
    dirty_since: float = 0.0  # monotonic seconds; when it was last clean
    generation: int = 0  # counts flushes, regions and slices of a trim: each voids a running flush
    edits: int = 0  # counts edits and trims of the map: each voids a running region of ingest
    flushing: "list[Frozen]" = field(default_factory=list)  # the flushes under way

    def copy(self) -> "StagedFile":
        """Return a copy with which another thread may plan reads."""
        windows = {
            number: dataclasses.replace(window, ranges=window.ranges.copy(), counted_in=None)
            for number, window in self.windows.items()
        }
        return dataclasses.replace(self, windows=windows, superseded=[], flushing=[])

    def freeze(self) -> "Frozen":
        """Return the state for a flush, which follows truncations until `flushing` loses it."""
        frozen = Frozen(
            self.copy(),
            tuple(self.superseded),
            {number: window.lost() for number, window in self.windows.items()},
            time.monotonic(),
        )
        self.flushing.append(frozen)
        return frozen

    def truncate(self, size: int) -> list[Window]:
        """Set the size, and return the windows that are cut off."""
        cut_off: list[Window] = []
        if size < self.size:
            cut_off = self.cut_off(size)
            for window in self.windows.values():
                if window.ranges.stop > size:
                    window.cut(size)
            for frozen in self.flushing:
                frozen.cut(size, self.whole)
        self.size = size
        self.size_floor = min(self.size_floor, size)
        self.touch()
        return cut_off

    def cut_off(self, size: int) -> list[Window]:
        """Hide the map from `size` on, and remove and return the windows that begin there.

        Those of a whole file stay, without ranges: their rows are to be written again.
        """
        edge = self.map_visible_to
        self.map_visible_to = size if edge is None else min(size, edge)
        cut_off = [
            window
            for window in self.windows.values()
            if window.start >= size and window.file is not self.whole
        ]
        for window in cut_off:
            del self.windows[window.number]
        return cut_off

    def follow_whole(self, counted_in: StagedSum | None = None) -> None:
        """Bring the state up to the bytes that the kernel has written to the whole file, if any.

        Args:
            counted_in: gets the bytes of new windows.
        """
        with contextlib.suppress(FileNotFoundError):  # an error of the first read
            if self.whole is not None and (seen := self.whole.observe()) is not None:
                self._follow(self.whole, seen, counted_in)

    def _follow(self, whole: WholeFile, seen: Observed, counted_in: StagedSum | None) -> None:
        parts = parts_of_windows(seen.data)
        # The first window has a row in any case: after a crash the file is found by it.
        for number in {0, *self.windows, *parts}:
            if number not in self.windows:
                self.windows[number] = Window(
                    number, whole.generation, whole, counted_in=counted_in
                )
            self.windows[number].replace(parts.get(number, RangeSet()))
        self.size = seen.size
        self.size_floor = min(self.size_floor, seen.size)
        self.mtime_ns = later_ns(self.mtime_ns, seen.mtime_ns)
        self.ctime_ns = later_ns(self.ctime_ns, seen.ctime_ns)
        self._note_change()

    def replaced(self, start: int, stop: int) -> None:
        """Note that a range has other mapped content now, or none; drop its staged bytes."""
        for window in self.windows.values():
            low, high = max(start, window.start), min(stop, window.start + WINDOW)
            if next(window.ranges.within(low, high), None) is not None:
                window.remove(low, high)
        self.edits += 1
        self.touch()

    def touch(self) -> None:
        """Note a change of the content that is not durable, and its time."""
        self.mtime_ns, self.ctime_ns = now_ns(self.mtime_ns), now_ns(self.ctime_ns)
        self._note_change()

    def _note_change(self) -> None:
        if not self.dirty:
            self.dirty_since = time.monotonic()
        self.dirty = True

    def hides_map(self, offset: int) -> bool:
        """Whether the map is hidden at an offset: by a whole file, or behind a truncation."""
        return self.map_end(offset + 1) <= offset

    def map_end(self, stop: int) -> int:
        """Return the end of the part of the map that is not hidden, `stop` at most.

        A whole file has all of the content: its holes are zeros. Programs may make some, by
        madvise(2), over extents that an earlier pass has put into the map.
        """
        if self.whole is not None:
            return 0
        return stop if self.map_visible_to is None else min(stop, self.map_visible_to)

    @property
    def lost_bytes(self) -> int:
        return sum(window.lost().size for window in self.windows.values())

    @property
    def lost_error(self) -> int:
        """The errno of the failure that lost bytes; EIO if that was before the store was opened."""
        return next(filter(None, (w.file.error for w in self.windows.values())), errno.EIO)

    @property
    def has_new_losses(self) -> bool:
        """Whether bytes were lost since the store was opened."""
        return any(window.file.failures and window.lost() for window in self.windows.values())

    @property
    def staged_bytes(self) -> int:
        return sum(window.ranges.size for window in self.windows.values())

    def ranges(self) -> RangeSet:
        """Return all staged ranges."""
        numbers = sorted(self.windows)
        return RangeSet(pair for number in numbers for pair in self.windows[number].ranges)

    def within(self, start: int, stop: int) -> Iterator[tuple[Window, int, int]]:
        """Yield the staged parts of `[start, stop)` in order: window, first offset, end offset."""
        first, last = start // WINDOW, (stop - 1) // WINDOW
        # Step over the fewer: numbers in the range, or windows of the file.
        if last - first < len(self.windows):
            numbers = [number for number in range(first, last + 1) if number in self.windows]
        else:
            numbers = [number for number in sorted(self.windows) if first <= number <= last]
        for number in numbers:
            window = self.windows[number]
            for low, high in window.ranges.within(start, stop):
                yield window, low, high

    def _differs_from(self, frozen: "StagedFile") -> bool:
        """Whether the file needs another flush after that of `frozen`, an earlier copy of it."""
        return (
            self.size != frozen.size
            or self.mtime_ns != frozen.mtime_ns
            or self.ctime_ns != frozen.ctime_ns
            or self.map_visible_to != frozen.map_visible_to
            or any(window.dirty for window in self.windows.values())
        )

    def truncation_recorded(self) -> None:
        """Note that the inode record has the smallest size. After the change of the index."""
        self.size_floor = self.size
        self.generation += 1

    def flush_recorded(self, frozen: "Frozen") -> None:
        """Note that the index has the state of a flush. After the change of the index."""
        for window in frozen.windows:
            current = self.windows.get(window.number)
            if current is not None and current.generation == window.generation:
                current.dirty = current.stamp != window.stamp  # written or cut during the flush
                current.recorded = True
                if self.whole is not None:
                    self.whole.was_recorded = True
        self.size_floor = min(self.size, frozen.state.size)
        self.generation += 1
        self.dirty = self._differs_from(frozen.state)
        self.dirty_since = frozen.began


@dataclass(slots=True, eq=False)
class Frozen:
    """The state of a file that a flush makes durable: that of its beginning, cut by truncations."""

    state: StagedFile  # a copy
    superseded: tuple[Window, ...]
    lost: dict[int, RangeSet]  # of each window, by its number
    began: float  # monotonic seconds

    @property
    def windows(self) -> list[Window]:
        """The windows whose bytes are to be made durable."""
        return [window for window in self.state.windows.values() if window.dirty]

    def cut(self, size: int, whole: WholeFile | None) -> None:
        """Cut the state to a size. The staging files, which it shares with the file, stay.

        Args:
            size: of the file, from now on.
            whole: its whole file by now. If that is another one, a cut to nothing has ended the one
                of the state, and its windows are superseded or deleted: no row may name it again.
        """
        if self.state.whole is not whole:
            self.state.whole = None
            self.state.windows.clear()
        if size < self.state.size:
            self.state.cut_off(size)
            for window in self.state.windows.values():
                window.ranges.remove(size, window.start + WINDOW)
            self.state.size = size


def stamp_of(staged: StagedFile | None, number: int) -> Stamp | None:
    """Return the stamp of a file's window, None if it has no such window."""
    window = None if staged is None else staged.windows.get(number)
    return None if window is None else window.stamp


def is_being_written(staged: StagedFile | None, number: int) -> bool:
    """Whether a write to a file's window is in progress."""
    window = None if staged is None else staged.windows.get(number)
    return window is not None and window.file.writing > 0


def with_staged_state(node: Inode, staged: StagedFile) -> Inode:
    """Return an inode's record with the size and times of its staged state."""
    # Not `dataclasses.replace`, which takes 3.6 us instead of 1.4: each getattr comes here.
    return Inode(
        node.inode,
        node.mode,
        node.uid,
        node.gid,
        node.nlink,
        staged.size,
        node.rdev,
        node.atime_ns,
        staged.mtime_ns,
        max(node.ctime_ns, staged.ctime_ns),
        node.parent,
        node.format,
        node.staging_rows,
        node.mapped,
        node.xattr_rows,
        node.tensor_rows,
    )
