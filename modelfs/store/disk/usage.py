"""The disk space that a store uses, counted now and then, and bounded in between.

Counting walks over the folder. Between two counts all bytes that are promised to a writer are
added, before they are written, so the bound may be too high, and is never too low. Promised bytes
that may not be on the disk yet are *coming*; a count does not see them. The index grows with its
commits, so its file is looked at each time, and changes that wait for a commit are added.

Example. A count finds 90 MiB, of which 10 MiB are the index. A writer is promised 1 MiB: the bound
is 91 MiB. While the bytes are being written, another count finds 90 MiB again, and 1 MiB is still
coming: 91 MiB. They arrive, and the bound stays. Ingest deletes a staging file of 20 MiB: the bound
stays too high until the next count, which finds 71 MiB.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

# Bytes of the index for a byte of changes in memory, at most: pages are half full after a split.
INDEX_FACTOR: Final = 2


class Usage:
    """The disk space of one store. Any thread."""

    def __init__(
        self,
        folder: Path,
        index_file: Path | None = None,
        uncommitted: Callable[[], int] = lambda: 0,
    ) -> None:
        """Prepare to count the space of a folder.

        Args:
            folder: of the store.
            index_file: grows without promises, with commits; None: there is none.
            uncommitted: returns the bytes of changes of the index that wait for a commit.
        """
        self._folder = folder
        self._index_file = index_file
        self._uncommitted = uncommitted
        self._lock = threading.Lock()
        self._coming = 0
        self._arrived = 0  # bytes since this object was made
        self._counted = 0  # bytes at the last count, without the index
        self._arrived_before = 0  # the last count

    @property
    def coming(self) -> int:
        """Bytes that were promised, and may not be on the disk yet."""
        return self._coming

    def promise(self, size: int) -> None:
        """Add bytes that are about to be written; `arrive` follows in any case."""
        with self._lock:
            self._coming += size

    def arrive(self, promised: int, written: int) -> None:
        """Note that promised bytes, or fewer, were written, and will be seen by the next count."""
        with self._lock:
            self._coming -= promised
            self._arrived += written

    def count(self) -> None:
        """Count the space that the store uses on the disk. Walks over its folder."""
        with self._lock:
            arrived = self._arrived
        counted = disk_usage(self._folder) - self._index_bytes()
        with self._lock:
            self._counted, self._arrived_before = counted, arrived

    @property
    def bytes(self) -> int:
        """The most space that the store uses, with all bytes that were promised."""
        with self._lock:
            promised = self._coming + self._arrived - self._arrived_before
        return self._counted + promised + self._index_bytes() + INDEX_FACTOR * self._uncommitted()

    def _index_bytes(self) -> int:
        try:
            return 0 if self._index_file is None else self._index_file.stat().st_blocks * 512
        except FileNotFoundError:
            return 0


def disk_usage(folder: Path) -> int:
    """Return the disk space of everything in a folder, in bytes, as du(1) counts it.

    Folders that this user may not read are passed over, such as the `lost+found` of a disk.
    """
    total = folder.stat().st_blocks * 512
    folders = [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except (FileNotFoundError, PermissionError):
            continue  # deleted since it was listed, or another user's
    return total
