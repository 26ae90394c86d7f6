"""Free space on the backing disk, and the reserve that lets deletes and commits always go on.

Theory of operation. Three kinds of work need space, and each leaves some for the next:

1. Writers stop at the *reserve*: a write is accepted only while more than that is free. All bytes
   that are staged need room for a copy in chunks, too, so writers also stop when no more is free
   than that, and a *slack* for the growth of the index until then.
2. Ingest and the optimizer may use most of the reserve. Ingest frees more than it uses, but only
   afterwards: the staging files.
3. The last part of the reserve, the *floor*, is for the index and for fsyncs of accepted writes. gc
   may use half of it: it copies as much as it has room for, and a commit then frees more.

A writer that was refused may wait until ingest and gc have made room.
It may also *borrow* from the reserve: content that the store has already takes no room in the end.
If it is new all the same, it stays in the reserve; so a loan leaves room for the copy of its bytes,
and the slack. Hence no acknowledged write has to stay staged for lack of room. And bytes that are
not known to be copies leave half of the room to loans for those that are.

Programs that write without asking for room are stopped by a *guard* (see `disk.guard`).

The floor is held as a *ballast* where that is possible, because a disk quota may end before the
room that statvfs(2) shows (see `disk.ballast`). It counts as free. When the disk refuses a write,
the ballast is released, and until the disk has room for it again the floor is divided like a disk:
writers get nothing, ingest and gc a part, and the rest is for the index.

A pack without a live chunk is deleted without any free space.

A store may also have a *limit*: bytes that it may use on the disk. Reserve and floor are then parts
of the limit, so no work passes it (see `disk.limit` for a store that is larger when it is opened).
The numbers are in `disk.reserve`, and the bytes that the store uses in `disk.usage`.

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
from modelfs.store.disk.guard import Guard
from modelfs.store.disk.limit import Limit
from modelfs.store.disk.reserve import Reserve, as_chunks
from modelfs.store.disk.usage import Usage

T = TypeVar("T")

# With less, a new store, whose index takes 4 MiB, has no room for a file of 1 MiB.
LIMIT_MIN: Final = 8 << 20
# A ballast is held if the disk has so many times its size.
SPARE_FACTOR: Final = 2
# gc leaves this part of the floor. It copies a little, and commits, which frees more than that.
GC_FLOOR_PART: Final = 1 / 2
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
        self,
        folder: Path,
        limit: int | None = None,
        *,
        index_file: Path | None = None,
        staged: Callable[[], int] = lambda: 0,
        uncommitted: Callable[[], int] = lambda: 0,
        has_ballast: bool = False,
    ) -> None:
        """Measure the space for a store in a folder.

        Args:
            folder: of the store.
            limit: the most bytes that the store may use; None: the whole disk.
            index_file: grows with commits, so it is looked at each time.
            staged: returns the bytes that are not in chunks yet; any thread, and without a walk.
            uncommitted: returns the bytes of changes of the index in memory; any thread.
            has_ballast: whether there is a ballast. It is held from `hold_ballast` on.
        """
        self._folder = folder
        self._staged = staged
        self._usage = Usage(folder, index_file, uncommitted)
        self._ballast = Ballast(folder)
        self.guard = Guard(folder)
        self._has_ballast = has_ballast
        self._spending = threading.Lock()
        self._limit: Limit | None = None
        if limit is not None:
            reserve = Reserve.of(min(self._total(self._disk()), limit), limited=True)
            self._limit = Limit(limit, self._usage, reserve, staged)
        self._writable = 0  # bytes that writers had at the last look
        self._looked_at = -FRESH_SECONDS  # monotonic seconds
        self._granted = 0  # bytes, since then

    def close(self) -> None:
        """Give the ballast back to the disk."""
        self._has_ballast = False
        self._ballast.close()
        self.guard.close()

    @property
    def may_have_changed(self) -> bool:
        """Whether `measure` may find other numbers: of a limit, or whether a quota has room."""
        return self._limit is not None or self._ballast.is_due

    @property
    def reserve_bytes(self) -> int:
        """Bytes that writers leave free. Any thread."""
        return self._reserve(self._disk()).size

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
        return self._working(1) - self._reserve(self._disk()).slack

    @property
    def probe_bytes(self) -> int:
        """Those of `loan_bytes` that new content may use up, so that copies have room. Any thread.

        Negative if copies have less.
        """
        return self.loan_bytes - self._reserve(self._disk()).for_copies

    def _working(self, floor_part: float) -> int:
        disk = self._disk()
        floor = int(self._reserve(disk).floor * floor_part)
        working = self._free(disk) - self.guard.bytes - floor
        return min(working, self._ballast.lendable) if self._ballast.is_missing else working

    def room(self, garbage: int = 0) -> Room:
        """Return free space less the reserve, within the limit.

        `reserve` grants less while more is staged than the reserve has room for.

        Args:
            garbage: bytes that are collected when a writer needs them, and so count as free.
        """
        disk = self._disk()
        total = self._total(disk)
        # Garbage fills the reserve first, if that is in use.
        free = min(total, self._free(disk) + garbage) - self._reserve(disk).size
        free = 0 if self._ballast.is_missing else max(0, free)
        return Room(total, free, disk.f_files, disk.f_favail)

    def _disk(self) -> os.statvfs_result:
        return os.statvfs(self._folder)

    def _total(self, disk: os.statvfs_result) -> int:
        total = disk.f_blocks * disk.f_frsize
        return total if self._limit is None else min(total, self._limit.size)

    def _free(self, disk: os.statvfs_result) -> int:
        held = self._ballast.bytes + self.guard.bytes
        free = disk.f_bavail * disk.f_frsize + held - self._usage.coming
        return free if self._limit is None else min(free, self._limit.free)

    def _reserve(self, disk: os.statvfs_result) -> Reserve:
        return Reserve.of(self._total(disk), limited=self._limit is not None)

    # -- the ballast

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

    def hold_ballast(self) -> None:
        """Hold the ballast, if it is not held and the disk has room to spare. Any thread."""
        if self._has_ballast and not self._ballast.bytes:
            disk = self._disk()
            floor = self._reserve(disk).floor
            if disk.f_bavail * disk.f_frsize >= SPARE_FACTOR * floor:
                self._ballast.hold(floor)

    # -- writers

    def may_write_unseen(self, portion: int) -> bool:
        """Whether a program may write a file from its beginning without asking for room.

        Only while there is more room than the reserve has, and not below a limit, which no disk
        keeps. And on small disks not at all: there the reserve has no room for the portion.

        Args:
            portion: the bytes that ingest puts into chunks before it gives back their room.
        """
        reserve = self._reserve(self._disk())
        return (
            self._limit is None
            and reserve.size >= reserve.floor + reserve.slack + as_chunks(portion)
            and self.writable_bytes() >= reserve.size
        )

    def begin_unseen(self) -> bool:
        """Hold the reserve while a program writes without asking; return whether it is held.

        `end_unseen` follows, if it is.
        """
        return self.guard.add_writer(self.reserve_bytes - self._ballast.bytes)

    def end_unseen(self) -> None:
        """Note that a program of `begin_unseen` has closed its file."""
        self.guard.remove_writer()

    def reserve(self, size: int) -> None:
        """Grant a writer `size` bytes, before it writes them. `arrive` follows in any case.

        Raises:
            StoreFull: only the reserve is left, or the limit is reached.
        """
        now = time.monotonic()
        wanted = self._granted + size
        if now - self._looked_at > FRESH_SECONDS or wanted > min(FRESH_BYTES, self._writable):
            self._look(now)
        if self._ballast.is_missing or self._granted + size > self._writable:
            raise self._full()
        self._grant(size)

    def borrow(self, size: int, staged_max: int) -> None:
        """Grant a writer bytes of the reserve, if no more than `staged_max` are staged then.

        Raises:
            StoreFull: more would be staged, or they might not fit as new chunks.
        """
        staged = self._staged() + self._usage.coming
        needed = size + as_chunks(staged + size)
        if self._ballast.is_missing or staged + size > staged_max or needed > self.loan_bytes:
            raise self._full()
        self._grant(size)

    def writable_bytes(self) -> int:
        """Return how many bytes `reserve` would grant now; negative if the reserve is in use."""
        self._look(time.monotonic())
        return min(0, self._writable) if self._ballast.is_missing else self._writable

    def _look(self, now: float) -> None:
        disk = self._disk()
        staged = self._staged() + self._usage.coming
        self._writable = self._reserve(disk).for_writers(self._free(disk), staged)
        self._looked_at, self._granted = now, 0

    def _grant(self, size: int) -> None:
        self._granted += size
        self._usage.promise(size)

    def _full(self) -> StoreFull:
        if self._ballast.is_missing:
            return StoreFull("no space left on the disk under the store, or in a disk quota")
        cause = "" if self._limit is None else ", or the store has reached its limit"
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
            self._ballast.lend(size)

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
        self.guard.release()
        self.hold_ballast()
        if self._limit is not None:
            self._limit.count()
