"""The file of a staged window, and the state of each byte that was written to it.

Theory of operation. Each byte is in one of four states::

    written    in the kernel's page cache; the kernel may write it back at any time, and fail
    flushing   the same, and an fdatasync is in progress that covers it
    durable    on the disk
    lost       a write-back failed after it was written: the file may have any bytes in its place

    write:     any -> written            also heals a lost byte
    sync:      written -> flushing -> durable
    failure:   written, flushing -> lost
    cut:       any -> no byte of the file

The kernel reports a failure once for each open descriptor (see `disk.writeback`), so one
descriptor stays open from the first write until all bytes are durable. A lock is held from the
question to the kernel until its answer is among the states, so no thread misses a failure that was
reported to another. It is not the lock of the states, which no thread holds while it waits for a
disk. An fdatasync uses a descriptor of its own, because between its return and the lock another
thread would miss the failure. There is one at a time.

A failure names no page. All bytes that were not durable become lost, durable ones stay. Reads check
the states after they have the bytes, because a page is dropped only after the failure is noted.

Example. Bytes 0 to 100 are durable, and 50 to 200 were written since. The disk is full for a
moment. A read of 0 to 10 returns its bytes. A read of 40 to 60 asks the kernel, gets ENOSPC, and
raises `LostBytes`: 50 to 200 are lost. A program writes 50 to 150 again, and a sync succeeds: 150
to 200 are still lost, and every flush of the file fails until they are written or cut off.

A reader beside a writer keeps no descriptor open: its cache of open files may close each of them
between two reads. So a read asks with one that may be new, and that gets a failure only if no other
descriptor has had it: see the limits in docs/guarantees.md.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterable
from typing import Final

from modelfs.errors import LostBytes
from modelfs.store.disk.descriptors import Descriptor, Descriptors, sync
from modelfs.store.disk.writeback import answer_waits, take_error
from modelfs.store.index.ranges import RangeSet


class WindowFile:
    """One staging file. All offsets are in this file. Any thread."""

    def __init__(
        self,
        files: Descriptors,
        name: str,
        kept: dict["WindowFile", None] | None,
        *,
        written: Iterable[tuple[int, int]] = (),
        lost: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Prepare a staging file; `descriptor` opens it.

        Args:
            files: opens the files of the folder.
            name: of the file.
            kept: has each `WindowFile` that keeps a descriptor open, the first one first. None:
                another process writes the file.
            written: ranges that may not be durable.
            lost: ranges that the disk has lost.
        """
        self.name: Final = name
        self._answer_waits: bool | None = None  # not known before the file is open
        self._files = files
        self._kept_files = kept
        self._kept: Descriptor | None = None
        self._syncing = threading.Lock()  # held during an fdatasync of `sync`
        # Held from a question to the kernel until `_fail`. On some file systems that is an
        # fdatasync. Taken before `_lock`.
        self._asking = threading.Lock()
        # Guards all below. Held for moments: every write takes it, some on the event loop.
        self._lock = threading.Lock()
        self._written = RangeSet(written)
        self._flushing = RangeSet()
        self._lost = RangeSet(lost)
        self.writing = 0  # writes in progress; the owner's thread changes it
        self._clean = not (self._written or self._lost)  # all bytes are durable
        self.failures = 0  # counted, so that a pass of ingest notices one
        self.error = 0  # errno of the last failure; 0: no byte is lost, or since before the opening

    def descriptor(self, *, create: bool = False) -> Descriptor:
        """Return the open file; with `create`, make it if it does not exist.

        Raises:
            OSError: the file cannot be opened or created.
        """
        file = self._kept or self._files.get(self.name, os.O_CREAT if create else 0)
        if not self._clean:
            with self._lock:
                if self._written:
                    self._keep(file)
        return file

    def reload(self) -> None:
        """Make the kernel read the file from the disk again. Waits for the disk.

        After a process was killed, the kernel may have failed to write its bytes back, so the page
        cache may have bytes that the disk does not have. From now on the disk's bytes are read,
        and they are durable.

        Raises:
            OSError: the file cannot be opened.
        """
        file = self._files.open(self.name)
        with contextlib.suppress(OSError):  # such bytes were not durable: they may be the old ones
            sync(file)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with self._lock:
            self._written = RangeSet()
            self._update()

    def forget(self) -> None:
        """Note that the window is gone. Reads that were planned still check their bytes."""
        if self._kept_files is not None:
            self._kept_files.pop(self, None)

    # -- writes

    def begin_write(self, file: Descriptor) -> int:
        """Note that a write begins, through `descriptor`. Return a value for `end_write`."""
        with self._lock:
            self._keep(file)
            self.writing += 1
            self._clean = False
            return self.failures

    def end_write(self, start: int, stop: int, attempted: int, failures: int) -> None:
        """Note that a write has ended; the bytes from `start` to `stop` are in the page cache.

        Args:
            start: of the write.
            stop: of its bytes that were written.
            attempted: its end. A write that failed may have changed bytes behind `stop`.
            failures: the result of `begin_write`.
        """
        with self._lock:
            self.writing -= 1
            if failures == self.failures:
                self._lost.remove(start, stop)
                self._written.add(start, attempted)
            else:
                # A failure was noted meanwhile. The kernel may have dropped bytes of this write.
                self._lost.add(start, attempted)
            self._update()

    def cut(self, start: int, stop: int) -> None:
        """Forget the bytes from `start` to `stop`, which no longer belong to the file."""
        with self._lock:
            for state in (self._written, self._flushing, self._lost):
                state.remove(start, stop)
            self._update()

    # -- what became of the bytes

    def check_waits(self, file: Descriptor) -> bool:
        """Whether `check` may wait for the disk."""
        if self._clean:
            return False
        if self._answer_waits is None:
            self._answer_waits = answer_waits(file.fd)
        return self._answer_waits

    def check(self, file: Descriptor, start: int, stop: int) -> None:
        """Check bytes that were just read: whether they are the ones that were written.

        Args:
            file: the descriptor with which they were read.
            start: of the bytes.
            stop: of the bytes.

        Raises:
            LostBytes: some of them may not be.
        """
        if self._clean:
            return
        with self._asking:
            self._ask(self._kept or file)
            with self._lock:
                if next(self._lost.within(start, stop), None) is not None:
                    problem = f"the disk failed to write {start} to {stop} of staging file"
                    raise LostBytes(f"bytes were lost: {problem} {self.name}")

    def lose(self, ranges: RangeSet) -> None:
        """Note that the disk has other bytes than were written."""
        with self._lock:
            self.failures += 1
            self._written = RangeSet()
            self._lost.update(ranges)
            self._update()

    def lost(self) -> RangeSet:
        """Return the ranges that the disk has lost, as far as is known."""
        with self._lock:
            return self._lost.copy()

    def sync(self) -> None:
        """Make the file's bytes durable, or note that they are lost. Waits for the disk.

        Raises:
            OSError: the file cannot be opened. Nothing has changed.
        """
        with self._syncing:
            with self._lock:
                self._flushing, self._written = self._written, RangeSet()
            error = self._fdatasync() if self._flushing or self._needs_sync() else 0
            with self._asking:
                self._ask(self._kept)
                with self._lock:
                    if error:
                        self._fail(error)
                    self._flushing = RangeSet()
                    self._update()

    def _fdatasync(self) -> int:
        """Return the errno of the failure, 0 if there was none."""
        try:
            file = self._files.open(self.name)
        except OSError:
            with self._lock:
                self._written.update(self._flushing)
                self._flushing = RangeSet()
            raise
        try:
            sync(file)
        except OSError as exc:
            return exc.errno or errno.EIO
        return 0

    def _needs_sync(self) -> bool:
        """Whether more may have changed than the bytes that are known to be written."""
        return False

    def _ask(self, file: Descriptor | None) -> None:
        """Ask the kernel for a failure. With `_asking` held."""
        if file is not None and (error := take_error(file.fd)):
            with self._lock:
                self._fail(error)

    # -- with the lock held

    def _keep(self, file: Descriptor) -> None:
        if self._kept is None and self._kept_files is not None:
            self._kept = file
            self._kept_files[self] = None

    def _update(self) -> None:
        """Release the descriptor when no byte is left that the kernel may fail to write."""
        if not self._lost:
            self.error = 0
        if not self._may_change():
            self._kept = None
            self.forget()
            self._clean = not self._lost

    def _may_change(self) -> bool:
        return bool(self.writing or self._written or self._flushing)

    def _fail(self, error: int) -> None:
        self.failures += 1
        self.error = error
        self._lost.update(self._written)
        self._lost.update(self._flushing)
        self._written, self._flushing = RangeSet(), RangeSet()
        self._update()
