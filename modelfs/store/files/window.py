"""A window of a file that has staged bytes: its ranges, its file on the disk, and its stamp.

The owner's thread changes a window; another thread uses a copy of it, which shares the file.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from modelfs.store.disk.descriptors import Descriptor
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet

WINDOW: Final = 64 << 20

_NUMBER: Final = "(0|[1-9a-f][0-9a-f]{0,15})"
_WINDOW_NAME: Final = re.compile(f"{_NUMBER}-{_NUMBER}-{_NUMBER}")

Stamp = tuple[int, int, int]  # generation, version, failures


@dataclass(slots=True)
class StagedSum:
    """The number of staged bytes of a store: kept, since there may be many thousand files."""

    bytes: int = 0


@dataclass(slots=True)
class Window:
    """One window of a file that has staged bytes."""

    number: int
    generation: int  # part of the staging file's name: a window that begins again has a new file
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
        return self.ranges.common(self.file.lost().shifted(self.start))

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
        base = self.start
        self.version += 1
        self.file.end_write(start - base, stop - base, attempted - base, failures)
        before = self.ranges.size
        self.ranges.add(start, stop)
        self._count(self.ranges.size - before)
        self.dirty = True

    def cut(self, size: int) -> None:
        """Drop the bytes from `size` on, because the file was truncated."""
        self.version += 1
        before = self.ranges.size
        self.ranges.remove(size, self.start + WINDOW)
        self._count(self.ranges.size - before)
        self.file.cut(size - self.start, WINDOW)
        self.dirty = True

    def _count(self, more: int) -> None:
        if self.counted_in is not None:
            self.counted_in.bytes += more


def windows_of(start: int, stop: int) -> set[int]:
    """Return the numbers of the windows that overlap `[start, stop)`."""
    return set(range(start // WINDOW, (stop - 1) // WINDOW + 1))


def window_name(inode: int, number: int, generation: int) -> str:
    """Return the name of a window's staging file."""
    return f"{inode:x}-{number:x}-{generation:x}"


def window_of(name: str) -> tuple[int, int] | None:
    """Return the inode and the number of the window that a staging file is of.

    None if the file has another name than `window_name` makes.
    """
    match = _WINDOW_NAME.fullmatch(name)
    return None if match is None else (int(match[1], 16), int(match[2], 16))
