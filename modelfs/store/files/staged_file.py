"""The content state of one file that has staged bytes, in memory: see `files.staging`."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber

WINDOW: Final = 64 << 20


@dataclass(slots=True)
class Window:
    """One window of a file that has staged bytes. Offsets in `ranges` are the file's."""

    number: int
    generation: int
    ranges: RangeSet = field(default_factory=RangeSet)
    version: int = 0
    writing: int = 0  # writes under way
    dirty: bool = False  # bytes or ranges that no flush has made durable
    failed: bool = False  # a flush failed: the kernel may have dropped what it could not write

    @property
    def start(self) -> int:
        return self.number * WINDOW

    @property
    def full(self) -> bool:
        return self.ranges.size == WINDOW

    @property
    def stamp(self) -> tuple[int, int]:
        """What no other window, and no other state of this one, has."""
        return self.generation, self.version

    @property
    def idle(self) -> bool:
        """Whether it was begun for a write that failed."""
        return not self.ranges and not self.writing


@dataclass(slots=True)
class StagedFile:
    """The content state of a file that differs from what its inode record and map say."""

    inode: InodeNumber
    size: int
    mtime_ns: int
    ctime_ns: int
    size_floor: int  # the smallest size since the inode record was last brought up to date
    map_visible_to: int | None = None  # the committed map counts only up to here; None: all of it
    windows: dict[int, Window] = field(default_factory=dict)
    superseded: list[Window] = field(default_factory=list)
    dirty: bool = False  # size, times or `visible` that no flush has made durable
    dirty_since: float = 0.0  # monotonic seconds; when it was last clean
    generation: int = 0  # counts cuts, flushes and what ingest did: each voids a flush under way

    def copy(self) -> "StagedFile":
        """Return a copy for another thread to plan reads with."""
        windows = {
            number: dataclasses.replace(window, ranges=window.ranges.copy())
            for number, window in self.windows.items()
        }
        return dataclasses.replace(self, windows=windows, superseded=[])

    @property
    def failed(self) -> bool:
        return any(window.failed for window in self.windows.values())

    @property
    def staged_bytes(self) -> int:
        return sum(window.ranges.size for window in self.windows.values())

    def ranges(self) -> RangeSet:
        """Return all staged ranges."""
        numbers = sorted(self.windows)
        return RangeSet(pair for number in numbers for pair in self.windows[number].ranges)

    def within(self, start: int, stop: int) -> Iterator[tuple[Window, int, int]]:
        """Yield the staged parts of `[start, stop)` in order, each with its window."""
        for number in self._numbers(start, stop):
            window = self.windows[number]
            for low, high in window.ranges.within(start, stop):
                yield window, low, high

    def differs(self, frozen: "StagedFile") -> bool:
        """Whether there is something to flush that an earlier copy, now flushed, did not have."""
        return (
            self.size != frozen.size
            or self.mtime_ns != frozen.mtime_ns
            or self.ctime_ns != frozen.ctime_ns
            or self.map_visible_to != frozen.map_visible_to
            or any(window.dirty for window in self.windows.values())
        )

    def truncation_admitted(self) -> None:
        """Note, after the change of the index, that the inode record has the smallest size."""
        self.size_floor = self.size
        self.generation += 1

    def _numbers(self, start: int, stop: int) -> Iterator[int]:
        # Whichever is fewer: windows that exist, or windows in the range.
        first, last = start // WINDOW, (stop - 1) // WINDOW
        if last - first < len(self.windows):
            return (number for number in range(first, last + 1) if number in self.windows)
        return (number for number in sorted(self.windows) if first <= number <= last)


def windows_of(start: int, stop: int) -> set[int]:
    """Return the numbers of the windows that `[start, stop)` lies in."""
    return set(range(start // WINDOW, (stop - 1) // WINDOW + 1))


def stamp_of(staged: StagedFile | None, number: int) -> tuple[int, int] | None:
    window = None if staged is None else staged.windows.get(number)
    return None if window is None else window.stamp


def is_written(staged: StagedFile | None, number: int) -> bool:
    window = None if staged is None else staged.windows.get(number)
    return window is not None and window.writing > 0


def window_name(inode: int, number: int, generation: int) -> str:
    return f"{inode:x}-{number:x}-{generation:x}"
