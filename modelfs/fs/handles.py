"""The open files and directories of a mount, and the state of each open file's reader."""

import time
from collections import deque
from dataclasses import dataclass, field

from pyfuse3 import FileHandleT

from modelfs.errors import InvalidArgument
from modelfs.fs.changed import Changed
from modelfs.store.files.read_runs import ChunkRun
from modelfs.store.index.tables import ChunkId, InodeNumber


@dataclass(slots=True)
class ReadAheadState:
    """The position of an open file's reader, and the chunks queued for it: see `readahead`.

    The event loop owns it. Threads only pop from `queue`.
    """

    next_offset: int = 0  # where the next read of a sequential reader starts
    queued_to: int = 0  # the offset up to which chunks were queued
    queue: deque[ChunkRun] = field(default_factory=deque)
    pending: set[ChunkId] = field(default_factory=set)  # queued, or with a thread
    tasks: int = 0  # tasks that work on the queue
    running: int = 0  # those of them that have a thread
    changed: Changed = field(default_factory=Changed)  # notified after every change of the above
    # Chunks that were read to their ends: the offset of each end, and the chunk.
    passed: dict[ChunkId, tuple[int, ChunkRun]] = field(default_factory=dict)

    def is_coming(self, run: ChunkRun) -> bool:
        """Whether a thread works on the chunk, or will soon."""
        return self.running > 0 and run.chunk in self.pending

    def restart(self, offset: int) -> None:
        """Expect the next read at an offset, after a jump of the reader."""
        self.next_offset = self.queued_to = offset
        self.passed.clear()
        self.drop_queue()

    def drop_queue(self) -> None:
        """Empty the queue; a chunk that a thread works on is still finished."""
        self.queue.clear()
        self.pending.clear()
        self.changed.notify()

    def finish(self, chunk: ChunkId, succeeded: bool) -> None:
        """Note that a thread is done with a chunk."""
        self.pending.discard(chunk)
        self.changed.notify()
        if not succeeded:
            self.drop_queue()  # a failing disk gets no reads that no program asked for


@dataclass(slots=True)
class Handle:
    """An open file or directory."""

    inode: InodeNumber
    writable: bool = False
    pid: int = 0  # of the program that opened it
    number: int = 0  # of the backing file that the kernel reads and writes; 0: none
    durable: bool = False  # changes by it are durable before their replies
    read_bytes: int = 0  # by way of the daemon
    ahead: ReadAheadState = field(default_factory=ReadAheadState)
    listing_end: int = 0  # the cookie before which a listing ends
    may_extend: bool = False  # the listing goes on once more, to the names created meanwhile

    @property
    def is_passed(self) -> bool:
        """Whether the kernel reads and writes it itself."""
        return self.number > 0


class Handles:
    """The open files and directories, by handle."""

    def __init__(self) -> None:
        self._open: dict[FileHandleT, Handle] = {}
        self._counts: dict[InodeNumber, int] = {}  # how many handles each inode has
        self._writers: dict[InodeNumber, int] = {}  # how many of them are writable
        self._next = 1
        self._used = time.monotonic()

    def __getitem__(self, handle: FileHandleT) -> Handle:
        """Return an open file or directory.

        Raises:
            InvalidArgument: no such handle is open.
        """
        self._used = time.monotonic()
        try:
            return self._open[handle]
        except KeyError:
            raise InvalidArgument(f"no open file {handle}") from None

    def open(
        self,
        inode: InodeNumber,
        *,
        writable: bool,
        pid: int = 0,
        number: int = 0,
        durable: bool = False,
    ) -> FileHandleT:
        """Open a file or directory; its handle is never used again."""
        handle = FileHandleT(self._next)
        self._next += 1
        self._open[handle] = Handle(inode, writable, pid, number, durable)
        self._counts[inode] = self._counts.get(inode, 0) + 1
        if writable:
            self._writers[inode] = self._writers.get(inode, 0) + 1
        return handle

    def close(self, handle: FileHandleT) -> Handle:
        """Close a file or directory, and return its state."""
        closed = self._open.pop(handle)
        closed.ahead.drop_queue()
        _count_down(self._counts, closed.inode)
        if closed.writable:
            _count_down(self._writers, closed.inode)
        return closed

    def idle_seconds(self) -> float:
        """Return the time since the last request for an open file, in seconds."""
        return time.monotonic() - self._used

    def is_open(self, inode: InodeNumber) -> bool:
        """Whether a program has the file open, or mapped."""
        return inode in self._counts

    def open_for_writing(self) -> list[InodeNumber]:
        """Return the files that are open for writing."""
        return list(self._writers)

    def is_open_for_writing(self, inode: InodeNumber) -> bool:
        """Whether a program has the file open for writing, or mapped for writing."""
        return inode in self._writers


def _count_down(counts: dict[InodeNumber, int], inode: InodeNumber) -> None:
    left = counts[inode] - 1
    if left:
        counts[inode] = left
    else:
        del counts[inode]
