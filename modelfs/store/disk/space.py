"""Room on the backing disk, and the reserve that lets deletes and commits always go on.

Theory of operation. Three kinds of work need room, and each leaves some for the next:

1. Writers stop at the *reserve*: what they write is accepted only while that much is left.
2. Ingest and gc may use most of the reserve. Both give back more than they take, but only after
   they took it: ingest frees staging files, gc whole packs.
3. The last part, the *floor*, is for the index and for the fsyncs of what was accepted.

A pack is no longer than the reserve, so that gc can rewrite any pack that is worth it when writers
have nothing left. A pack with nothing alive in it needs no room to go.

A store may have a *limit* besides: what it takes on the disk, as du(1) counts it. Only writers heed
it. Counting means a walk over the store's files, so that is done on a thread (see `fs.collecting`);
in between, what writers were granted is added, which is more than they take in the end. So before a
writer is refused it is counted once more, on the owner's thread, at most every `FRESH_SECONDS`.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.errors import StoreFull

RESERVE_MAX: Final = 256 << 20
# On small disks the reserve is this part of them, or this many bytes if that is a quarter at most.
RESERVE_PART: Final = 0.05
RESERVE_MIN: Final = 24 << 20
# This part of the reserve is left to the index and to fsyncs.
FLOOR_PART: Final = 1 / 8
# The disk is asked again, by statvfs or by counting, after this many seconds or written bytes.
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
    """How much may still be written to a store. For the owner, unless a method says otherwise."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._folder = folder
        self._limit = limit
        self._used = 0  # bytes on the disk when they were last counted
        # Bytes, ever and before that. Only the owner grants, so no sum is made on two threads.
        self._granted_ever = 0
        self._granted_before = 0
        self._counted = 0.0  # monotonic seconds
        self.measure()
        self._room = self.room()
        self._asked = time.monotonic()
        self._granted = 0

    @property
    def limited(self) -> bool:
        return self._limit is not None

    @property
    def reserve_bytes(self) -> int:
        """Bytes that writers leave free. Any thread."""
        disk = os.statvfs(self._folder)
        return _reserve(self._total(disk))

    def room(self) -> Room:
        """Return what writers have: of the backing disk less the reserve, and of the limit."""
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize - _reserve(self._total(disk))
        if self._limit is not None:
            since = self._granted_ever - self._granted_before
            free = min(free, self._limit - self._used - since)
        return Room(self._total(disk), max(0, free), disk.f_files, disk.f_favail)

    def _total(self, disk: os.statvfs_result) -> int:
        total = disk.f_blocks * disk.f_frsize
        return total if self._limit is None else min(total, self._limit)

    def reserve(self, size: int) -> None:
        """Ask for room for `size` bytes that are about to be written.

        Raises:
            StoreFull: only the reserve is left, or the limit is reached.
        """
        now = time.monotonic()
        stale = now - self._asked > FRESH_SECONDS or self._granted + size > FRESH_BYTES
        if stale or self._granted + size > self._room.free:
            self._refresh(size, now)
        if self._granted + size > self._room.free:
            limit = " or its limit is reached" if self.limited else ""
            raise StoreFull(f"the disk under the store is full{limit}")
        self._granted += size
        self._granted_ever += size

    def _refresh(self, size: int, now: float) -> None:
        self._room, self._asked, self._granted = self.room(), now, 0
        # What was granted may not have become as much: count before it is refused.
        if size > self._room.free and now - self._counted > FRESH_SECONDS:
            self.measure()
            self._room = self.room()

    def spend(self, size: int) -> None:
        """Ask for room for what gives more back later, by ingest or gc. Any thread.

        Raises:
            StoreFull: only what the index needs is left.
        """
        disk = os.statvfs(self._folder)
        floor = int(_reserve(self._total(disk)) * FLOOR_PART)
        if disk.f_bavail * disk.f_frsize - size < floor:
            raise StoreFull("the disk under the store is full: what is left is for the index")

    def measure(self) -> None:
        """Count what the store takes on the disk, if there is a limit for it. Any thread."""
        if self._limit is not None:
            granted = self._granted_ever
            self._used = disk_usage(self._folder)
            self._granted_before = granted
            self._counted = time.monotonic()


def _reserve(total: int) -> int:
    least = min(RESERVE_MIN, total // 4)
    return min(RESERVE_MAX, max(int(total * RESERVE_PART), least))


def disk_usage(folder: Path) -> int:
    """Return the disk space of everything in a folder, in bytes, as du(1) counts it."""
    total = folder.lstat().st_blocks * 512
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue  # deleted since it was listed
    return total
