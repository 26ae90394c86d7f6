"""Free space on the backing disk, and the reserve that lets deletes and commits always go on.

Theory of operation. Three kinds of work need space, and each leaves some for the next:

1. Writers stop at the *reserve*: a write is accepted only while more than that is free. All bytes
   that are staged need room for a copy in chunks, too, so writers also stop when no more is free
   than that, and a *slack* for the growth of the index until then.
2. Ingest and the optimizer may use most of the reserve. Ingest frees more than it uses, but only
   afterwards: the staging files.
3. The last part of the reserve, the *floor*, is for the index and for fsyncs of accepted writes. gc
   may use half of it: it copies as much as it has room for, and a commit then frees more.

A writer that was refused waits until ingest and gc have made room (see `fs.background.shortage`).
It may also *borrow* from the reserve: content that the store has already takes no room in the end.
If it is new all the same, it stays in the reserve; so a loan leaves room for the copy of its bytes,
and the slack. Hence no acknowledged write has to stay staged for lack of room.

The floor is held as a *ballast* where that is possible, because a disk quota may end before the
room that statvfs(2) shows (see `disk.ballast`). It counts as free. When the disk refuses a write,
the ballast is released, and until the disk has room for it again the floor is divided like a disk:
writers get nothing, ingest and gc a part, and the rest is for the index.

A pack without a live chunk is deleted without any free space.

A store may also have a *limit*: bytes that it may use on the disk, as du(1) counts them. Reserve
and floor are then parts of the limit, so no work passes it (see `disk.usage`). A store that is
larger than the limit when it is opened has the room of a reserve above its size, so that gc can
make it smaller; and if its staged bytes have no room as chunks below the limit, the room for these.

Example. A disk of 100 GiB has a reserve of 256 MiB and a floor of 32 MiB. 300 MiB are free, and
nothing is staged. Writers get 44 MiB more, and then ENOSPC. A user deletes a file; gc copies the
last 60 MiB of a 250 MiB pack to a new one, which leaves 196 MiB, and deletes the old pack: 446 MiB
are free, 190 more than the reserve. Writers get 178 MiB of them, since the 44 that are staged need
room for a copy, and so will the new ones. Had the copy left less than 16 MiB, half of the floor,
`spend` would have refused it, and gc would have begun with a part of the 60 MiB.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from modelfs.errors import StoreFull
from modelfs.store.disk.allocation import FULL
from modelfs.store.disk.ballast import Ballast
from modelfs.store.disk.usage import Usage

T = TypeVar("T")

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
# This part of a released ballast is left to the index.
INDEX_PART: Final = 1 / 4
# A ballast is no smaller than this part of the floor: commits may have used a little of its room.
LEAST_PART: Final = 3 / 4
# A ballast is held if the disk has so many times its size.
SPARE_FACTOR: Final = 2
# After so many seconds it is tried again without a request that waits. On a btrfs with a used up
# quota each attempt waits for a commit of the file system.
RETRY_SECONDS: Final = 10.0
# Writers and loans leave this part of the reserve above the floor, or so many bytes: the index may
# grow by 4 MiB before the bytes that they staged are in chunks.
SLACK_PART: Final = 1 / 4
SLACK_MAX: Final = 4 << 20
# gc leaves this part of the floor. It copies a little, and commits, which frees more than that.
GC_FLOOR_PART: Final = 1 / 2
# `spend` is asked for a page of padding for each chunk of a segment.
INGEST_MARGIN: Final = 3 << 20
# Tables of segments and records of the index take less than this part of the bytes, as a divisor.
COPY_TABLES: Final = 32
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
        self._spending = threading.Lock()
        self._ballast = Ballast(folder)
        self._begun = False  # a ballast is wanted
        self._is_due = False  # the disk can have one, and had room for it as statvfs(2) shows
        self._tried_at = 0.0  # monotonic seconds; when it was last tried to hold it
        self._lendable = 0  # bytes of the ballast that ingest and gc may use once it is released
        self.measure()
        self._writable = 0  # bytes that writers had at the last look
        self._looked_at = -FRESH_SECONDS  # monotonic seconds
        self._granted = 0  # bytes, since then

    def consider(self, staged: Callable[[], int], uncommitted: Callable[[], int]) -> None:
        """Take into account bytes that are staged, and changes of the index in memory.

        From now on a ballast is held, if the disk has room for it.

        Args:
            staged: returns the bytes that are not in chunks yet; any thread, and without a walk.
            uncommitted: returns the bytes of the changes; any thread.
        """
        self._staged = staged
        self._usage.uncommitted = uncommitted
        if self._limit is not None:
            # Those of a larger limit must become chunks, too: the store passes this one meanwhile.
            missing = _as_chunks(staged()) - self.working_bytes
            self._ceiling += max(0, missing)
        self._begun = True
        self._hold_ballast()

    def close(self) -> None:
        """Give the ballast back to the disk."""
        self._begun = self._is_due = False
        self._ballast.release()

    @property
    def limited(self) -> bool:
        return self._limit is not None

    @property
    def may_have_changed(self) -> bool:
        """Whether `measure` may find other numbers: of a limit, or whether a quota has room."""
        retry = time.monotonic() - self._tried_at > RETRY_SECONDS
        return self.limited or (self._is_short and retry)

    @property
    def reserve_bytes(self) -> int:
        """Bytes that writers leave free. Any thread."""
        return _reserve(self._total(self._disk()))

    @property
    def working_bytes(self) -> int:
        """Free bytes above the floor: for ingest and the optimizer. Any thread."""
        return self._working(1)

    @property
    def gc_bytes(self) -> int:
        """Free bytes that gc may use. Any thread."""
        return self._working(GC_FLOOR_PART)

    @property
    def loan_bytes(self) -> int:
        """Free bytes that staged bytes of writers, and their chunks, may use. Any thread."""
        return self._working(1) - _slack(self.reserve_bytes)

    def _working(self, floor_part: float) -> int:
        disk = self._disk()
        working = self._free(disk) - int(self._floor(self._total(disk)) * floor_part)
        return min(working, self._lendable) if self._is_short else working

    def room(self, garbage: int = 0) -> Room:
        """Return free space less the reserve, within the limit.

        `reserve` grants less while more is staged than the reserve has room for.

        Args:
            garbage: bytes that are collected when a writer needs them, and so count as free.
        """
        disk = self._disk()
        total = self._total(disk)
        # Garbage fills the reserve first, if that is in use.
        free = min(total, self._free(disk) + garbage) - _reserve(total)
        free = 0 if self._is_short else max(0, free)
        return Room(total, free, disk.f_files, disk.f_favail)

    def _disk(self) -> os.statvfs_result:
        return os.statvfs(self._folder)

    def _total(self, disk: os.statvfs_result) -> int:
        total = disk.f_blocks * disk.f_frsize
        return total if self._limit is None else min(total, self._limit)

    def _free(self, disk: os.statvfs_result) -> int:
        free = disk.f_bavail * disk.f_frsize + self._ballast.bytes - self._usage.coming
        return free if self._limit is None else min(free, self._ceiling - self._usage.bytes)

    def _floor(self, total: int) -> int:
        reserve = _reserve(total)
        floor = int(reserve * FLOOR_PART)
        return floor if self._limit is None else max(floor, min(LIMIT_FLOOR_MIN, reserve // 2))

    # -- the ballast

    @property
    def _is_short(self) -> bool:
        """Whether the disk has refused a write, and not had room for the ballast since."""
        return self._is_due and not self._ballast.bytes

    def release(self, failure: OSError | StoreFull) -> bool:
        """Release the ballast if a write has failed for lack of room. Any thread.

        Returns:
            Whether there is more room now, so that the write may be repeated.
        """
        return failure.errno in FULL and self._ballast.release()

    def with_ballast(self, write: Callable[[], T]) -> T:
        """Call a function that writes the index; on a full disk once more, without the ballast.

        Any thread.

        Raises:
            StoreFull, OSError: of the function.
        """
        try:
            return write()
        except (StoreFull, OSError) as exc:
            if not self.release(exc):
                raise
        return write()

    def _hold_ballast(self) -> None:
        """Hold the ballast, if it is not held and the disk has room to spare. Any thread."""
        if not self._begun or self._ballast.bytes:
            return
        disk = self._disk()
        floor = self._floor(self._total(disk))
        if disk.f_bavail * disk.f_frsize >= SPARE_FACTOR * floor:
            for size in (floor, int(floor * LEAST_PART)):
                if self._ballast.hold(size):
                    self._lendable = int(size * (1 - INDEX_PART))
                    break
            self._is_due = self._ballast.is_possible
        self._tried_at = time.monotonic()

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
        if self._is_short or self._granted + size > self._writable:
            raise self._full()
        self._grant(size)

    def borrow(self, size: int, staged_max: int) -> None:
        """Grant a writer bytes of the reserve, if no more than `staged_max` are staged then.

        Raises:
            StoreFull: more would be staged, or they might not fit as new chunks.
        """
        staged = self._staged() + self._usage.coming
        needed = size + _as_chunks(staged + size)
        if self._is_short or staged + size > staged_max or needed > self.loan_bytes:
            raise self._full()
        self._grant(size)

    def writable_bytes(self) -> int:
        """Return how many bytes `reserve` would grant now; negative if the reserve is in use."""
        self._look(time.monotonic())
        return min(0, self._writable) if self._is_short else self._writable

    def _look(self, now: float) -> None:
        disk = self._disk()
        total = self._total(disk)
        free = self._free(disk)
        left = free - self._floor(total) - _slack(_reserve(total))
        copies = _with_copies(left, self._staged() + self._usage.coming)
        self._writable = min(free - _reserve(total), copies)
        self._looked_at, self._granted = now, 0

    def _grant(self, size: int) -> None:
        self._granted += size
        self._usage.promise(size)

    def _full(self) -> StoreFull:
        if self._is_short:
            return StoreFull("no space left on the disk under the store, or in a disk quota")
        cause = ", or the store has reached its limit" if self.limited else ""
        return StoreFull(f"no space left on the disk under the store{cause}")

    # -- ingest and gc

    def spend(self, size: int, *, for_gc: bool = False) -> None:
        """Check that ingest or gc may use `size` bytes of the reserve. Any thread.

        `arrive` follows in any case.

        Raises:
            StoreFull: only the floor would be left, or for gc a part of it, which the index needs.
        """
        floor_part = GC_FLOOR_PART if for_gc else 1
        with self._spending:
            if size > self._working(floor_part):
                self.measure()
                if size > self._working(floor_part):
                    raise StoreFull(f"{self._full()}: the index needs the rest")
            self._usage.promise(size)
            if self._is_short:
                self._lendable -= size

    def arrive(self, promised: int, written: int | None = None) -> None:
        """Note that bytes of `reserve` or `spend` were written, or not. Any thread.

        Args:
            promised: the number that was granted.
            written: the number that were written; None: as many.
        """
        self._usage.arrive(promised, promised if written is None else written)

    def measure(self) -> None:
        """Hold the ballast again, and count the bytes that the store uses, if it has a limit.

        May wait for the disk. Any thread.
        """
        self._hold_ballast()
        self._count()

    def _count(self) -> None:
        if self._limit is not None:
            self._usage.count()
            used = self._usage.bytes
            if not self._ceiling:
                above = used + self.reserve_bytes if used > self._limit else 0
                self._ceiling = max(self._limit, above)
            elif used + _as_chunks(self._staged()) <= self._limit:
                self._ceiling = self._limit


def _slack(reserve: int) -> int:
    return min(SLACK_MAX, int(reserve * SLACK_PART))


def _with_copies(free: int, staged: int) -> int:
    """Return how many bytes may be staged more, so that all staged ones have room as chunks."""
    left = free - INGEST_MARGIN - staged - staged // COPY_TABLES
    return left * COPY_TABLES // (2 * COPY_TABLES + 1)


def _as_chunks(staged: int) -> int:
    """Return the free space that the ingest of staged bytes needs, with tables and padding."""
    return staged + staged // COPY_TABLES + INGEST_MARGIN if staged else 0


def _reserve(total: int) -> int:
    smallest = min(RESERVE_MIN, total // 4)
    return min(RESERVE_MAX, max(int(total * RESERVE_PART), smallest))
