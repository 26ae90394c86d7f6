"""A window of a file that has staged bytes: its ranges, its file on the disk, and its stamp.

The owner's thread changes a window; another thread uses a copy of it, which shares the file.

A window has a staging file of its own, or it is a part of a *whole* one, which all windows of the
file share (see `whole_file`). The generation of a whole file has the bit `WHOLE`. If the file is
*divided*, its windows have `DIVIDED`, too: they are as those with files of their own, but that the
room of one is given back by a hole in the file that they share.

Example. Window 1 of inode 5 has 10 bytes at 70 MiB. In a file of its own, 5-1-2, they lie at 6 MiB.
In the whole file 5-w-2 they lie at 70 MiB.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from modelfs.store.disk.descriptors import Descriptor
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet

WINDOW: Final = 64 << 20
WHOLE: Final = 1 << 62
DIVIDED: Final = 1 << 61  # with `WHOLE` only
GENERATION_BITS: Final = 61  # of a number without these

_NUMBER: Final = "(0|[1-9a-f][0-9a-f]{0,15})"
_WINDOW_NAME: Final = re.compile(f"{_NUMBER}-(?:{_NUMBER}|w)-{_NUMBER}")

Stamp = tuple[int, int, int]  # generation, version, failures


@dataclass(slots=True)
class StagedSum:
    """The number of staged bytes of a store: kept, since there may be many thousand files."""

    bytes: int = 0


@dataclass(slots=True)
class Window:
    """One window of a file that has staged bytes."""

    number: int
    # Part of the staging file's name: a window that begins again has a new file.
    generation: int
    file: WindowFile
    ranges: RangeSet = field(default_factory=RangeSet)  # staged bytes, as offsets in the file
    version: int = 0  # counts the beginnings and ends of writes, and cuts
    dirty: bool = False  # has bytes or ranges that no flush has made durable
    recorded: bool = False  # a row of the index names its file
    counted_in: StagedSum | None = None  # has the ranges; None: a copy, or cut off, or dropped

    def count_in(self, total: StagedSum | None) -> None:
        """Add the staged bytes to a sum, and take them out of the one that has them."""
        for each, sign in ((self.counted_in, -1), (total, 1)):
            if each is not None:
                each.bytes += sign * self.ranges.size
        self.counted_in = total

    @property
    def start(self) -> int:
        return self.number * WINDOW

    @property
    def origin(self) -> int:
        """The offset in the file at which its staging file begins."""
        return origin_of(self.number, self.generation)

    @property
    def is_whole(self) -> bool:
        """Whether it is a part of a whole file."""
        return is_whole(self.generation)

    @property
    def is_divided(self) -> bool:
        """Whether it is a part of a divided file."""
        return self.shares_file and bool(self.generation & DIVIDED)

    @property
    def shares_file(self) -> bool:
        """Whether it is a part of a whole file, or of a divided one."""
        return bool(self.generation & WHOLE)

    @property
    def full(self) -> bool:
        return self.ranges.size == WINDOW

    @property
    def stamp(self) -> Stamp:
        """A value that changes with each write, cut and failure, and that no other window has.

        A copy shares the file, so a failure changes the stamp of the copy, too.
        """
        return self.generation, self.version, self.file.failures

    def lost(self) -> RangeSet:
        """Return the staged ranges that the disk has lost."""
        return self.ranges.common(self.file.lost().shifted(self.origin))

    @property
    def unused(self) -> bool:
        """Whether the window has no bytes: its only write failed, or a cut removed them all."""
        return not self.ranges and not self.file.writing

    # -- changes, of the window and its file

    def begin_write(self, file: Descriptor) -> int:
        """Note that a write begins. Return a value for `end_write`."""
        self.version += 1
        return self.file.begin_write(file)

    def end_write(self, start: int, stop: int, attempted: int, failures: int) -> None:
        """Note that a write has ended. As `WindowFile.end_write`, with offsets in the file."""
        base = self.origin
        self.version += 1
        self.file.end_write(start - base, stop - base, attempted - base, failures)
        before = self.ranges.size
        self.ranges.add(start, stop)
        self._count(self.ranges.size - before)
        self.dirty = True

    def cut(self, size: int) -> None:
        """Drop the bytes from `size` on, because the file was truncated."""
        self.remove(size, self.start + WINDOW)

    def remove(self, start: int, stop: int) -> None:
        """Drop the bytes of a range, because it has other content now, or none."""
        self.version += 1
        before = self.ranges.size
        self.ranges.remove(start, stop)
        self._count(self.ranges.size - before)
        self.file.cut(start - self.origin, stop - self.origin)
        self.dirty = True

    def replace(self, ranges: RangeSet) -> None:
        """Set the ranges to those that the whole file has data in."""
        self.version += 1
        self._count(ranges.size - self.ranges.size)
        self.ranges = ranges
        self.dirty = True

    def _count(self, more: int) -> None:
        if self.counted_in is not None:
            self.counted_in.bytes += more


def windows_of(start: int, stop: int) -> set[int]:
    """Return the numbers of the windows that overlap `[start, stop)`."""
    return set(range(start // WINDOW, (stop - 1) // WINDOW + 1))


def parts_of_windows(ranges: RangeSet) -> dict[int, RangeSet]:
    """Return the parts of ranges in each window that has some, by its number."""
    parts: dict[int, RangeSet] = {}
    for low, high in ranges:
        for number in range(low // WINDOW, (high - 1) // WINDOW + 1):
            start = number * WINDOW
            part = parts.setdefault(number, RangeSet())
            part.add(max(low, start), min(high, start + WINDOW))
    return parts


def is_whole(generation: int) -> bool:
    """Whether a generation is that of a whole file, which is not divided."""
    return generation & (WHOLE | DIVIDED) == WHOLE


def origin_of(number: int, generation: int) -> int:
    """Return the offset in the file at which a window's staging file begins."""
    return 0 if generation & WHOLE else number * WINDOW


def window_name(inode: int, number: int, generation: int) -> str:
    """Return the name of a window's staging file."""
    if generation & WHOLE:
        return f"{inode:x}-w-{generation & ~(WHOLE | DIVIDED):x}"
    return f"{inode:x}-{number:x}-{generation:x}"


def is_shared(name: str) -> bool:
    """Whether the name of a staging file is that of a whole or divided one."""
    return "-w-" in name


def window_of(name: str) -> tuple[int, int] | None:
    """Return the inode and the number of the window that a staging file is of.

    The first window of a whole file; None if the file has another name than `window_name` makes.
    """
    match = _WINDOW_NAME.fullmatch(name)
    return None if match is None else (int(match[1], 16), int(match[2] or "0", 16))
