"""Writes and truncations: changes of a file's content in memory and in staging files.

A write has three steps. `begin` and `end` run on the owner's thread; in between, `write_part`
writes the bytes into staging files on any thread.

Example. A write of 100 bytes, 60 bytes before the end of window 0, has two parts: 60 bytes in
window 0 and 40 in window 1. `begin` counts a write in progress for both windows. The bytes go into
two staging files. `end` adds them to the windows' ranges, and the file ends 40 bytes behind window
0. If the disk is full after 60 bytes, `end` gets 60 and adds no range to window 1.
"""

from dataclasses import dataclass

from modelfs.errors import FileTooLarge
from modelfs.store.disk.descriptors import Descriptor, write_at
from modelfs.store.files.content import Contents
from modelfs.store.files.staging import Staging
from modelfs.store.files.window import WINDOW, Window
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.index.tables import InodeNumber


@dataclass(frozen=True, slots=True)
class WritePart:
    """The part of a write that goes into one window's staging file."""

    window: Window
    file: Descriptor
    start: int  # offset in the file that is written, not in the staging file
    data: memoryview
    failures: int  # of the staging file, at the beginning


class Writes:
    """Writes and truncates files."""

    def __init__(self, contents: Contents, staging: Staging) -> None:
        self._contents = contents
        self._staging = staging

    def begin(self, inode: InodeNumber, offset: int, data: memoryview) -> list[WritePart]:
        """Begin a write, and return its parts.

        The caller then calls `write_part` for each part, and `end` in any case.

        Raises:
            FileTooLarge: the write ends behind the largest file size.
            OSError: a staging file cannot be created.
        """
        if offset + len(data) > SIZE_MAX:
            raise FileTooLarge(f"a file of {offset + len(data)} bytes")
        staged = self._contents.staged(inode)
        planned: list[tuple[Window, Descriptor, int, memoryview]] = []
        while data:
            window = self._staging.window(staged, offset // WINDOW)
            size = min(len(data), window.start + WINDOW - offset)
            planned.append((window, self._staging.descriptor(window), offset, data[:size]))
            offset, data = offset + size, data[size:]
        # Only now: `end` ends no write of which a file could not be created.
        return [
            WritePart(window, file, start, part, window.begin_write(file))
            for window, file, start, part in planned
        ]

    def end(self, inode: InodeNumber, parts: list[WritePart], written: int) -> None:
        """End a write of which the first `written` bytes are in the staging files."""
        staged = self._contents.staged(inode)
        for part in parts:
            size = min(len(part.data), written)
            written -= size
            stop, attempted = part.start + size, part.start + len(part.data)
            part.window.end_write(part.start, stop, attempted, part.failures)
            # A truncation may have cut off the window since `begin`.
            if size and staged.windows.get(part.window.number) is part.window:
                staged.size = max(staged.size, stop)
        staged.touch()

    def write(self, inode: InodeNumber, offset: int, data: bytes) -> None:
        """Do a whole write on this thread. Raises as `begin` and `write_part`."""
        parts = self.begin(inode, offset, memoryview(data))
        written = 0
        try:
            for part in parts:
                write_part(part)
                written += len(part.data)
        finally:
            self.end(inode, parts, written)

    def truncate(self, inode: InodeNumber, size: int) -> None:
        """Set a file's size. New bytes read as zeros. The cost does not depend on the size.

        Raises:
            FileTooLarge: the size is larger than the largest file size.
            OSError: the disk failed, or has no whole files of that size.
        """
        if size > SIZE_MAX:
            raise FileTooLarge(f"a file of {size} bytes")
        staged = self._contents.staged(inode)
        if staged.whole is not None:
            self._staging.wholes.truncate(staged, size)
        for window in staged.truncate(size):
            self._staging.supersede(staged, window)


def write_part(part: WritePart) -> None:
    """Write one part into its staging file. Any thread.

    Raises:
        OSError: the backing disk is full or failed; some of the bytes may be written.
    """
    write_at(part.file, part.start - part.window.origin, [part.data])
