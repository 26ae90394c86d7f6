"""Room on the backing disk, and the reserve that lets deletes and commits always go on."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.errors import StoreFull

RESERVE_MAX: Final = 64 << 20
# On small disks the reserve is this part of them.
RESERVE_PART: Final = 0.05
# statvfs is asked again after this many seconds or written bytes.
FRESH_SECONDS: Final = 0.5
FRESH_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """Sizes in bytes; inodes in numbers."""

    total: int
    free: int
    inodes: int
    free_inodes: int


class Space:
    """How much may still be written to a store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._room = self.room()
        self._asked = time.monotonic()
        self._granted = 0

    def room(self) -> Room:
        """Return what the backing disk has, less the reserve."""
        disk = os.statvfs(self._folder)
        total = disk.f_blocks * disk.f_frsize
        reserve = min(RESERVE_MAX, int(total * RESERVE_PART))
        free = disk.f_bavail * disk.f_frsize - reserve
        return Room(total, max(0, free), disk.f_files, disk.f_favail)

    def take(self, size: int) -> None:
        """Ask for room for `size` bytes that are about to be written.

        Raises:
            StoreFull: only the reserve is left.
        """
        now = time.monotonic()
        stale = now - self._asked > FRESH_SECONDS or self._granted + size > FRESH_BYTES
        if stale or self._granted + size > self._room.free:
            self._room, self._asked, self._granted = self.room(), now, 0
        if self._granted + size > self._room.free:
            raise StoreFull("the disk under the store is full")
        self._granted += size
