"""Free space on the backing disk, and the reserve that lets deletes and commits always go on.

Theory of operation. Three kinds of work need space, and each leaves some for the next:

1. Writers stop at the *reserve*: a write is accepted only while more than that is free.
2. Ingest and gc may use most of the reserve. Both free more than they use, but only afterwards:
   ingest frees staging files, gc frees whole packs.
3. The last part of the reserve, the *floor*, is for the index and for fsyncs of accepted writes.

A pack is no longer than the reserve, so gc can rewrite every pack that is worth it after writers
have used up their space. A pack without a live chunk is deleted without any free space.

Example. A disk of 100 GiB has a reserve of 256 MiB and a floor of 32 MiB. 300 MiB are free. Writers
get 44 MiB more, and then ENOSPC. A user deletes a file; gc copies the last 60 MiB of a 250 MiB pack
to a new one, which leaves 196 MiB, and deletes the old pack: 446 MiB are free, 190 of them for
writers. Had the copy left less than 32 MiB, `spend` would have refused it.

A store may also have a *limit*: bytes that it may use on the disk, as du(1) counts them. Only
writers respect it. Counting walks over all files of the store, so a thread does it now and then
(see `fs.background.gc`). Between two counts, all bytes granted to writers are added to the last
count. That sum is too high, since writers use less than they are granted. So before a writer is
refused, the owner's thread counts once more, at most every `FRESH_SECONDS`.
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
# Free space is measured again, by statvfs or by counting, after so many seconds or granted bytes.
FRESH_SECONDS: Final = 0.5
FRESH_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """The space that writers have. Sizes are in bytes; inodes are numbers of inodes."""

    total: int
    free: int
    inodes: int
    free_inodes: int


class Space:
    """Free space for one store. For the owner's thread, unless a method is for any."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._folder = folder
        self._limit = limit
        self._used = 0  # bytes that the store used on the disk at the last count
        # Bytes granted since this object was made, and until the last count. Two totals and not
        # their difference, since another thread may count while the owner grants.
        self._granted_total = 0
        self._granted_before_count = 0
        self._counted_at = 0.0  # monotonic seconds
        self.measure()
        self._room = self.room()
        self._room_at = time.monotonic()
        self._granted = 0  # bytes, since `_room` was measured

    @property
    def limited(self) -> bool:
        return self._limit is not None

    @property
    def reserve_bytes(self) -> int:
        """Bytes that writers leave free. Any thread."""
        disk = os.statvfs(self._folder)
        return _reserve(self._total(disk))

    def room(self) -> Room:
        """Return the space for writers: free space less the reserve, within the limit."""
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize - _reserve(self._total(disk))
        if self._limit is not None:
            granted = self._granted_total - self._granted_before_count
            free = min(free, self._limit - self._used - granted)
        return Room(self._total(disk), max(0, free), disk.f_files, disk.f_favail)

    def _total(self, disk: os.statvfs_result) -> int:
        total = disk.f_blocks * disk.f_frsize
        return total if self._limit is None else min(total, self._limit)

    def reserve(self, size: int) -> None:
        """Grant a writer `size` bytes, before it writes them.

        Raises:
            StoreFull: only the reserve is left, or the limit is reached.
        """
        now = time.monotonic()
        wanted = self._granted + size
        if now - self._room_at > FRESH_SECONDS or wanted > min(FRESH_BYTES, self._room.free):
            self._room, self._room_at, self._granted = self.room(), now, 0
            # Writers may have used less than they were granted: count before refusing.
            if size > self._room.free and now - self._counted_at > FRESH_SECONDS:
                self.measure()
                self._room = self.room()
        if self._granted + size > self._room.free:
            cause = ", or the store has reached its limit" if self.limited else ""
            raise StoreFull(f"no space left on the disk under the store{cause}")
        self._granted += size
        self._granted_total += size

    def spend(self, size: int) -> None:
        """Check that ingest or gc may use `size` bytes of the reserve. Any thread.

        Raises:
            StoreFull: only the floor would be left, which the index needs.
        """
        disk = os.statvfs(self._folder)
        floor = int(_reserve(self._total(disk)) * FLOOR_PART)
        if disk.f_bavail * disk.f_frsize - size < floor:
            raise StoreFull("no space left on the disk under the store: the index needs the rest")

    def measure(self) -> None:
        """Count the bytes that the store uses on the disk, if it has a limit. Any thread."""
        if self._limit is not None:
            granted = self._granted_total
            self._used = disk_usage(self._folder)
            self._granted_before_count = granted
            self._counted_at = time.monotonic()


def _reserve(total: int) -> int:
    smallest = min(RESERVE_MIN, total // 4)
    return min(RESERVE_MAX, max(int(total * RESERVE_PART), smallest))


def disk_usage(folder: Path) -> int:
    """Return the disk space of everything in a folder, in bytes, as du(1) counts it."""
    total = folder.stat().st_blocks * 512
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue  # deleted since it was listed
    return total
