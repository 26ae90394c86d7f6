"""Free space on the backing disk, and the reserve that lets deletes and commits always go on.

Theory of operation. Three kinds of work need space, and each leaves some for the next:

1. Writers stop at the *reserve*: a write is accepted only while more than that is free. All bytes
   that are staged need room for a copy in chunks, too, so writers also stop when no more is free
   than that.
2. Ingest and gc may use most of the reserve. Both free more than they use, but only afterwards:
   ingest frees staging files, gc frees whole packs.
3. The last part of the reserve, the *floor*, is for the index and for fsyncs of accepted writes.

A writer that was refused waits until ingest and gc have made room (see `fs.background.shortage`).
It may also *borrow* from the reserve: content that the store has already takes no room in the end.

A pack is no longer than the reserve, so gc can rewrite every pack that is worth it after writers
have used up their space. A pack without a live chunk is deleted without any free space.

A store may also have a *limit*: bytes that it may use on the disk, as du(1) counts them. Reserve
and floor are then parts of the limit, so no work passes it (see `disk.usage`).
A store that is larger than the limit when it is opened has the room of a reserve above its size, so
that gc can make it smaller.

Example. A disk of 100 GiB has a reserve of 256 MiB and a floor of 32 MiB. 300 MiB are free, and
nothing is staged. Writers get 44 MiB more, and then ENOSPC. A user deletes a file; gc copies the
last 60 MiB of a 250 MiB pack to a new one, which leaves 196 MiB, and deletes the old pack: 446 MiB
are free, 190 more than the reserve. Writers get 182 MiB of them, since the 44 that are staged need
room for a copy, and so will the new ones. Had the copy left less than 32 MiB, `spend` would have
refused it.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.errors import StoreFull
from modelfs.store.disk.usage import Usage

RESERVE_MAX: Final = 256 << 20
# On small disks the reserve is this part of them, or this many bytes if that is a quarter at most.
RESERVE_PART: Final = 0.05
RESERVE_MIN: Final = 24 << 20
# This part of the reserve is left to the index and to fsyncs.
FLOOR_PART: Final = 1 / 8
# Below a limit it is at least this, or half of the reserve: the index allocates 4 MiB at a time.
LIMIT_FLOOR_MIN: Final = 6 << 20
# With less, a new store, whose index takes 4 MiB, has no room for a file of 1 MiB.
LIMIT_MIN: Final = 8 << 20
# `spend` is asked for a page of padding for each chunk of a segment.
INGEST_MARGIN: Final = 3 << 20
# Free space is measured again, by statvfs or by counting, after so many seconds or granted bytes.
FRESH_SECONDS: Final = 0.5
FRESH_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """The space that df(1) shows. Sizes are in bytes; inodes are numbers of inodes."""

    total: int
    free: int
    inodes: int
    free_inodes: int


class Space:
    """Free space for one store. For the owner's thread, unless a method is for any."""

    def __init__(
        self, folder: Path, limit: int | None = None, *, index_file: Path | None = None
    ) -> None:
        """Measure the space for a store in a folder.

        Args:
            folder: of the store.
            limit: the most bytes that the store may use; None: the whole disk.
            index_file: grows with commits, so it is looked at each time.
        """
        self._folder = folder
        self._usage = Usage(folder, index_file)
        self._limit = limit
        self._ceiling = 0  # the limit, or more as long as the store is larger
        self._staged: Callable[[], int] = lambda: 0
        self._staged_at_most = 0
        self._spending = threading.Lock()
        self.measure()
        self._writable = 0  # bytes that writers had at the last look
        self._looked_at = -FRESH_SECONDS  # monotonic seconds
        self._granted = 0  # bytes, since then

    def consider(self, staged: Callable[[], int], uncommitted: Callable[[], int]) -> None:
        """Take into account bytes that are staged, and changes of the index in memory.

        Args:
            staged: returns the bytes that are not in chunks yet; on the owner's thread.
            uncommitted: returns the bytes of the changes; any thread.
        """
        self._staged, self._staged_at_most = staged, staged()
        self._usage.uncommitted = uncommitted

    @property
    def limited(self) -> bool:
        return self._limit is not None

    @property
    def reserve_bytes(self) -> int:
        """Bytes that writers leave free. Any thread."""
        return _reserve(self._total(self._disk()))

    @property
    def working_bytes(self) -> int:
        """Free bytes of the reserve and above it: for ingest and gc. Any thread."""
        disk = self._disk()
        return self._free(disk) - self._floor(self._total(disk))

    def room(self) -> Room:
        """Return free space less the reserve, within the limit.

        `reserve` grants less while more is staged than the reserve has room for.
        """
        disk = self._disk()
        total = self._total(disk)
        free = max(0, self._free(disk) - _reserve(total))
        return Room(total, free, disk.f_files, disk.f_favail)

    def _disk(self) -> os.statvfs_result:
        return os.statvfs(self._folder)

    def _total(self, disk: os.statvfs_result) -> int:
        total = disk.f_blocks * disk.f_frsize
        return total if self._limit is None else min(total, self._limit)

    def _free(self, disk: os.statvfs_result) -> int:
        free = disk.f_bavail * disk.f_frsize - self._usage.coming
        return free if self._limit is None else min(free, self._ceiling - self._usage.bytes)

    def _floor(self, total: int) -> int:
        reserve = _reserve(total)
        floor = int(reserve * FLOOR_PART)
        return floor if self._limit is None else max(floor, min(LIMIT_FLOOR_MIN, reserve // 2))

    # -- writers

    def reserve(self, size: int) -> None:
        """Grant a writer `size` bytes, before it writes them. `arrive` follows in any case.

        Raises:
            StoreFull: only the reserve is left, or the limit is reached.
        """
        now = time.monotonic()
        wanted = self._granted + size
        if now - self._looked_at > FRESH_SECONDS or wanted > min(FRESH_BYTES, self._writable):
            self._look(now)
            # Writers may have used less than they were granted: count before refusing.
            if size > self._writable and now - self._usage.counted_at > FRESH_SECONDS:
                self.measure()
                self._look(now)
        if self._granted + size > self._writable:
            raise self._full()
        self._grant(size)

    def borrow(self, size: int, staged_max: int) -> None:
        """Grant a writer bytes of the reserve, if no more than `staged_max` are staged then.

        Raises:
            StoreFull: more would be staged, or they might not fit as new chunks.
        """
        staged = self._staged() + self._usage.coming
        if staged + size > staged_max or size + _as_chunks(staged + size) > self.working_bytes:
            raise self._full()
        self._grant(size)

    def writable_bytes(self) -> int:
        """Return how many bytes `reserve` would grant now; negative if the reserve is in use."""
        self._look(time.monotonic())
        return self._writable

    def _look(self, now: float) -> None:
        disk = self._disk()
        total = self._total(disk)
        free, floor = self._free(disk), self._floor(total)
        # All that is staged and all that will be must fit once more, as chunks.
        twice = (free - floor - _as_chunks(self._staged_at_most)) // 2
        if twice < 2 * FRESH_BYTES:
            self._staged_at_most = self._staged() + self._usage.coming
            twice = (free - floor - _as_chunks(self._staged_at_most)) // 2
        self._writable = min(free - _reserve(total), twice)
        self._looked_at, self._granted = now, 0

    def _grant(self, size: int) -> None:
        self._granted += size
        self._staged_at_most += size
        self._usage.promise(size)

    def _full(self) -> StoreFull:
        cause = ", or the store has reached its limit" if self.limited else ""
        return StoreFull(f"no space left on the disk under the store{cause}")

    # -- ingest and gc

    def spend(self, size: int) -> None:
        """Check that ingest or gc may use `size` bytes of the reserve. Any thread.

        `arrive` follows in any case.

        Raises:
            StoreFull: only the floor would be left, which the index needs.
        """
        with self._spending:
            if size > self.working_bytes:
                self.measure()
                if size > self.working_bytes:
                    raise StoreFull(f"{self._full()}: the index needs the rest")
            self._usage.promise(size)

    def arrive(self, promised: int, written: int | None = None) -> None:
        """Note that bytes of `reserve` or `spend` were written, or not. Any thread.

        Args:
            promised: the number that was granted.
            written: the number that were written; None: as many.
        """
        self._usage.arrive(promised, promised if written is None else written)

    def measure(self) -> None:
        """Count the bytes that the store uses on the disk, if it has a limit. Any thread."""
        if self._limit is not None:
            self._usage.count()
            if (used := self._usage.bytes) <= self._limit:
                self._ceiling = self._limit
            elif not self._ceiling:
                self._ceiling = used + self.reserve_bytes


def _as_chunks(staged: int) -> int:
    """Return the free space that the ingest of staged bytes needs, with tables and padding."""
    return staged + staged // 32 + INGEST_MARGIN if staged else 0


def _reserve(total: int) -> int:
    smallest = min(RESERVE_MIN, total // 4)
    return min(RESERVE_MAX, max(int(total * RESERVE_PART), smallest))
