"""The staging file of a whole file, which the kernel itself reads, writes and maps for programs.

Theory of operation. With FUSE passthrough the kernel gives programs a plain file in place of the
file that they opened in the mount, and the daemon sees no write. So such a staging file has the
content of the whole file, each byte at its own offset, and its state is that of the disk: its size,
its times, and where it has data. While a program may write it, the file is *live*, and each look at
the staged state (`Staging.find`) follows it: by fstat it is known whether anything has changed
since the last look.

A mapping outlives the close of its file, and such a writer may even outlive the daemon. So a live
file is not taken for final, and ingest leaves it alone, until `prove_unwritten` has asked the
kernel for a lease (see `disk.lease`). From then on it is like any other staging file, to
the next open for writing.

The windows of the file are its parts; they have ranges, rows and stamps as those with staging files
of their own. But they are dropped together, when the whole file is in chunks.

Once its content is in chunks, and while programs still have it open or mapped, a whole file is kept
as a *copy*: the kernel demands that all opens of an inode at a time have the same file. A copy has
no row in the index. If a program opens it for writing, it becomes the content again.

A failed write-back names no page here, either (see `window_file`), and as no write is seen, all
bytes of a whole file count as written since the last look that found a change. Lost bytes are
healed only if they are cut off, such as by O_TRUNC. The kernel's own reads return the bytes of the
disk.

While a file is whole, its bytes give their room back together, at the end of its ingest. If there
is no room for all of its chunks until then, and no program has it open or mapped, it is *divided*:
its windows are then as those with files of their own, for writes and after a crash, too. As each is
dropped, its range becomes a hole with the next commit. A read that was planned before that checks
afterwards whether its window is still there, and is planned again if not. Beside a writer, the
window is there if the last commit has its row.

Example. A program creates inode 5 and writes 100 MiB: the file 5-w-1 has a size of 100 MiB, and a
look finds the windows 0 and 1. The program maps the file, closes it, and one second later ingest is
refused a lease. The program ends: the lease is granted, and ingest makes chunks of both windows.
The rows of both are deleted in one change, and the next commit deletes 5-w-1.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.errors import BytesMoved, NotSupported
from modelfs.store.disk import lease
from modelfs.store.disk.allocation import punch
from modelfs.store.disk.descriptors import Descriptor, Descriptors, write_at
from modelfs.store.disk.sparse import data_ranges
from modelfs.store.files.clock import STEP_NS
from modelfs.store.files.window import WINDOW
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet

DiskStamp = tuple[int, int, int]  # size, mtime and ctime, of a file on the disk

# With more ranges of data, those that follow are taken to reach to the ends of their windows: their
# holes read as zeros all the same. 1,000 take a millisecond.
RANGES_MAX: Final = 1000
# So many zeros of a copy stay a hole.
ZEROS: Final = bytes(256 << 10)


@dataclass(frozen=True, slots=True)
class Observed:
    """A whole file as the disk has it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    data: RangeSet  # of the file; all else are zeros


class WholeFile(WindowFile):
    """One whole staging file. For the owner's thread, except what `WindowFile` has for any."""

    def __init__(
        self,
        files: Descriptors,
        writable: Descriptors,
        name: str,
        kept: dict[WindowFile, None] | None,
        generation: int,
        *,
        live: bool = True,
    ) -> None:
        """Prepare a whole file; `create` makes it.

        Args:
            files: opens files for reading: a descriptor for writing would refuse every lease.
            writable: opens them for the moment of a write or truncation by this process.
            name: of the file.
            kept: as for `WindowFile`.
            generation: of its windows.
            live: whether programs may write it, unseen.
        """
        super().__init__(files, name, kept)
        self.generation: Final = generation
        self.live = live
        self.was_recorded = False  # a row named it once, and the last commit may have that row
        self.is_proven = False  # of a copy: the disk has all of its bytes
        self.is_mentioned = False  # of a copy: by the last commit, which has it staged
        self.divided = False  # its windows are as those with files of their own
        # Beside a writer: whether the last commit has the windows of a range, so that no part of it
        # has become a hole.
        self.has_rows: Callable[[int, int], bool] | None = None
        self.opens = 0  # open files for which the kernel uses it
        self._writable = writable
        self._last: DiskStamp | None = None  # at the last look
        self._given_back = RangeSet()  # of dropped windows; from the next commit on they are holes
        # An mtime that a program has set, after the disk's own, which may be less exact.
        self._given_mtime = (0, 0)

    def create(self, mtime_ns: int) -> None:
        """Make the file, and set its time.

        Raises:
            OSError: it cannot be made.
        """
        file = self.descriptor(create=True)
        with self._lock:
            self._keep(file)
        self.set_mtime(mtime_ns)

    def resume(self, written: RangeSet, lost: RangeSet, *, is_exact: bool) -> None:
        """Add the bytes of a window by its rows.

        Args:
            written: those that may not be durable.
            lost: those that the disk has lost.
            is_exact: whether the store was closed in order, so that the file has no other bytes.
        """
        with self._lock:
            self._written.update(written)
            self._lost.update(lost)
            self._clean = not (self._written or self._lost)
            self.live = self.live or not is_exact
            self.was_recorded = True

    # -- who has it open

    def opened(self, *, writable: bool) -> None:
        """Note that the kernel is about to use the file for an open file of a program.

        Raises:
            OSError: the file cannot be opened.
        """
        file = self.descriptor()
        with self._lock:
            self.opens += 1
            if writable:
                self.live = True
                self._last = None  # the clock of its times is too coarse to show a write by now
                self.writing += 1
                self._clean = False
                self._keep(file)

    def closed(self, *, writable: bool) -> None:
        """Note that a program has closed an open file. It may still have it mapped."""
        with self._lock:
            self.opens -= 1
            self.writing -= writable
            self._update()

    def prove_unwritten(self) -> bool:
        """Return whether no program can write the file, but by an open that is still to come.

        Raises:
            OSError: the file cannot be opened.
        """
        if self.live and not self.writing and not self._is_open(lease.is_open_for_writing):
            with self._lock:
                self.live = False
                self._update()
            self._last = None  # on tmpfs a store through a mapping may change no time
        return not self.live

    def is_unused(self) -> bool:
        """Whether no program has the file open or mapped."""
        if self.opens or self.live:
            return False
        try:
            return not self._is_open(lease.is_open_elsewhere)
        except OSError:
            return False

    def _is_open(self, question: Callable[[int], bool]) -> bool:
        """Answer a question of `disk.lease`: a file that is gone is not open."""
        try:
            return question(self.descriptor().fd)
        except FileNotFoundError:
            return False

    # -- writes of the kernel

    def observe(self) -> Observed | None:
        """Return the file as the disk has it, None if it is as at the last look.

        Raises:
            OSError: the file cannot be opened.
        """
        file = self.descriptor()
        status = os.fstat(file.fd)
        now = _stamp_of(status)
        if now == self._last:
            return None
        data = self._data(file, status.st_size)
        # A later change may have the same times, in a step of the clock.
        is_recent = status.st_ctime_ns + 2 * STEP_NS > time.time_ns()
        self._last = None if self.live and is_recent else now
        with self._lock:
            self._written.update(data)
            self._clean = False
            self._keep(file)
        kept, given = self._given_mtime
        mtime_ns = given if status.st_mtime_ns == kept else status.st_mtime_ns
        return Observed(status.st_size, mtime_ns, status.st_ctime_ns, data)

    def stamp(self) -> DiskStamp:
        """Return what every change of the file changes.

        Raises:
            OSError: the file cannot be opened.
        """
        return _stamp_of(os.fstat(self.descriptor().fd))

    def _data(self, file: Descriptor, size: int) -> RangeSet:
        found = data_ranges(file.fd)
        data = RangeSet((low, min(high, size)) for low, high in islice(found, RANGES_MAX))
        if len(data) == RANGES_MAX:
            data.update(_windows_with_data(file.fd, data.stop, size))
        return data

    def disk_bytes(self) -> int:
        """Return the bytes that the file takes on the disk; 0 if it is gone."""
        try:
            return os.fstat(self.descriptor().fd).st_blocks * 512
        except FileNotFoundError:
            return 0

    def put(self, start: int, data: bytes) -> None:
        """Write bytes of a copy that no program has yet. Any thread. Zeros stay a hole.

        Raises:
            OSError: the disk failed, or is full.
        """
        file = self._writable.open(self.name)
        for at in range(0, len(data), len(ZEROS)):
            part = data[at : at + len(ZEROS)]
            if part != ZEROS[: len(part)]:
                write_at(file, start + at, [part])
        if os.fstat(file.fd).st_size < start + len(data):
            os.ftruncate(file.fd, start + len(data))

    def prove(self) -> bool:
        """Sync a copy that no program writes; return whether the disk has it. Any thread."""
        failures = self.failures
        with contextlib.suppress(OSError):
            self.sync()
            self.is_proven = self.failures == failures and not self.lost()
        return self.is_proven

    # -- a divided file

    def gave_back(self, start: int, stop: int) -> None:
        """Note that a window was dropped: its bytes are in chunks, and are to become a hole."""
        with self._lock:
            self._given_back.add(start, stop)

    def check(self, file: Descriptor, start: int, stop: int) -> None:
        """Check bytes that were just read.

        Raises:
            LostBytes: as of any staging file.
            BytesMoved: their window was dropped since the read was planned, so they may be zeros.
            FileNotFoundError: the same beside a writer, as of a file that was deleted.
        """
        super().check(file, start, stop)
        if self.has_rows is not None and not self.has_rows(start, stop):
            raise FileNotFoundError(errno.ENOENT, "a window of a staging file was dropped")
        if not self.divided:
            return
        with self._lock:
            if next(self._given_back.within(start, stop), None) is not None:
                raise BytesMoved(f"bytes of the staging file {self.name} are in chunks by now")

    # -- changes by this process

    def writable_descriptor(self) -> Descriptor:
        """Return a descriptor for a write, which is to be dropped with it: it refuses every lease.

        Raises:
            OSError: the file cannot be opened.
        """
        self.descriptor()  # so that `begin_write`, which may not fail, finds it open
        return self._writable.open(self.name)

    def begin_write(self, file: Descriptor) -> int:
        """Note that a write begins. The descriptor that is kept is one for reading."""
        return super().begin_write(self.descriptor())

    def truncate(self, size: int) -> None:
        """Set the file's size.

        Raises:
            OSError: the disk failed, or has no files of that size.
        """
        file = self._writable.open(self.name)
        try:
            os.ftruncate(file.fd, size)
        except OSError as exc:
            exc.filename = str(file.path)
            raise
        self._last = None

    def punch(self, start: int, stop: int) -> None:
        """Make a range of the file a hole.

        Raises:
            NotSupported: its disk has no holes.
            OSError: the disk failed.
        """
        file = self._writable.open(self.name)
        try:
            punch(file.fd, start, stop)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                raise NotSupported("the disk under the store has no holes") from exc
            raise
        self._last = None

    def set_mtime(self, mtime_ns: int) -> None:
        """Set the time of the last change. Its disk may keep it less exactly.

        Raises:
            OSError: the file cannot be opened.
        """
        with contextlib.suppress(FileNotFoundError):  # an error of the first read
            fd = self.descriptor().fd
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            self._given_mtime = os.fstat(fd).st_mtime_ns, mtime_ns

    def _needs_sync(self) -> bool:
        return True  # its size is the file's

    # -- with the lock held

    def _may_change(self) -> bool:
        return self.live or super()._may_change()


def _stamp_of(status: os.stat_result) -> DiskStamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _windows_with_data(fd: int, start: int, size: int) -> RangeSet:
    """Return the windows of a file, or their parts from `start` on, that have data."""
    data = RangeSet()
    while (low := next(data_ranges(fd, start), (size, size))[0]) < size:
        start = min(size, (low // WINDOW + 1) * WINDOW)
        data.add(low, start)
    return data
