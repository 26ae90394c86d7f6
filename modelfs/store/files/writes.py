"""Writes: bytes on their way into staging files.

A write has two halves, as a read has: `begin` and `end` run on the thread that owns the store, and
`write_part` moves the bytes on any thread in between.

Example. A write of 100 bytes at the end of window 0 of a file has two parts, 60 bytes in window 0
and 40 in window 1. `begin` counts both windows as being written; the bytes go into two staging
files; `end` adds them to the windows' ranges and makes the file 40 bytes longer than window 0. If
the disk is full after 60 bytes, `end` is given 60: the second range is not added.
"""

import time
from dataclasses import dataclass
from typing import Final

from modelfs.errors import FileTooLarge
from modelfs.store.disk.descriptors import Descriptor, write_at
from modelfs.store.files.content import Contents
from modelfs.store.files.staged_file import WINDOW, StagedFile, Window
from modelfs.store.files.staging import Staging
from modelfs.store.index.tables import InodeNumber

# The kernel's own limit for a file's size.
SIZE_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class WritePart:
    """Bytes on their way into one window's staging file."""

    window: Window
    file: Descriptor
    start: int  # in the file
    data: memoryview


class Writes:
    """Changes the content of files, in memory and in staging files."""

    def __init__(self, contents: Contents, staging: Staging) -> None:
        self._contents = contents
        self._staging = staging

    def begin(self, inode: InodeNumber, offset: int, data: memoryview) -> list[WritePart]:
        """Say where written bytes go. Then `write_parts`, then `end_write`, whatever happens.

        Raises:
            FileTooLarge: the write ends past the largest size.
            OSError: a staging file cannot be made.
        """
        if offset + len(data) > SIZE_MAX:
            raise FileTooLarge(f"{offset + len(data)} bytes")
        staged = self._contents.staged(inode)
        parts: list[WritePart] = []
        while data:
            window = self._staging.window(staged, offset // WINDOW)
            size = min(len(data), window.start + WINDOW - offset)
            file = self._staging.descriptor(inode, window, create=not window.ranges)
            parts.append(WritePart(window, file, offset, data[:size]))
            offset, data = offset + size, data[size:]
        for part in parts:
            part.window.version += 1
            part.window.writing += 1
        return parts

    def end(self, inode: InodeNumber, parts: list[WritePart], written: int) -> None:
        """Take note of the first `written` bytes of a write."""
        now = time.time_ns()
        staged = self._contents.staged(inode)
        for part in parts:
            part.window.version += 1
            part.window.writing -= 1
            size = min(len(part.data), written)
            written -= size
            if staged.windows.get(part.window.number) is part.window and size:
                part.window.ranges.add(part.start, part.start + size)
                part.window.dirty = True
                staged.size = max(staged.size, part.start + size)
        staged.mtime_ns = staged.ctime_ns = now
        _mark(staged)

    def write(self, inode: InodeNumber, offset: int, data: bytes) -> None:
        """Write at once."""
        parts = self.begin(inode, offset, memoryview(data))
        written = 0
        try:
            for part in parts:
                write_part(part)
                written += len(part.data)
        finally:
            self.end(inode, parts, written)

    def truncate(self, inode: InodeNumber, size: int) -> None:
        """Set a file's size; what is new reads as zeros. Costs nothing for its size.

        Raises:
            FileTooLarge: past the largest size.
        """
        if size > SIZE_MAX:
            raise FileTooLarge(f"{size} bytes")
        staged = self._contents.staged(inode)
        if size < staged.size:
            self._cut(staged, size)
        staged.size = size
        staged.size_floor = min(staged.size_floor, size)
        staged.mtime_ns = staged.ctime_ns = time.time_ns()
        _mark(staged)

    def _cut(self, staged: StagedFile, size: int) -> None:
        staged.map_visible_to = (
            size if staged.map_visible_to is None else min(size, staged.map_visible_to)
        )
        staged.generation += 1
        for window in list(staged.windows.values()):
            if window.start >= size:
                window.version += 1
                self._staging.supersede(staged, window)
            elif window.ranges.stop > size:
                window.version += 1
                window.ranges.remove(size, window.start + WINDOW)
                window.dirty = True


def write_part(part: WritePart) -> None:
    """Write one part into its staging file. Any thread.

    Raises:
        OSError: the backing disk is full or failed; part of the bytes may be written.
    """
    write_at(part.file, part.start - part.window.start, [part.data])


def _mark(staged: StagedFile) -> None:
    if not staged.dirty:
        staged.dirty_since = time.monotonic()
    staged.dirty = True
