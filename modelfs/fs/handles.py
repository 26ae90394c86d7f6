"""What the kernel holds on to: looked-up inodes and open files."""

import time
from collections import deque
from dataclasses import dataclass, field

from pyfuse3 import FileHandleT

from modelfs.errors import InvalidArgument
from modelfs.fs.changed import Changed
from modelfs.store.files.content import ChunkRun
from modelfs.store.index.tables import ChunkId, InodeNumber


@dataclass(slots=True)
class ReadAheadState:
    """What is known of the reader of an open file. The event loop's, but for the queue."""

    expected: int = 0  # where the next read of a sequential reader starts
    ready: int = 0  # up to where chunks were queued for it
    queue: deque[ChunkRun] = field(default_factory=deque)
    pending: set[ChunkId] = field(default_factory=set)  # in the queue, or under way
    tasks: int = 0  # that see to the queue,
    turns: int = 0  # and those that have a thread for it
    changed: Changed = field(default_factory=Changed)  # of all of this
    # Chunks that were read to their ends, and where in the file those are.
    passed: dict[ChunkId, tuple[int, ChunkRun]] = field(default_factory=dict)

    def expects(self, run: ChunkRun) -> bool:
        """Whether a thread is about to make it ready."""
        return self.turns > 0 and run.chunk in self.pending

    def restart(self, stop: int) -> None:
        """Expect the reader there."""
        self.expected = self.ready = stop
        self.passed.clear()
        self.drop_queue()

    def drop_queue(self) -> None:
        """Make no more ready than what is under way."""
        self.queue.clear()
        self.pending.clear()
        self.changed.notify()


@dataclass(slots=True)
class Handle:
    """An open file or directory."""

    inode: InodeNumber
    writable: bool = False
    ahead: ReadAheadState = field(default_factory=ReadAheadState)
    listed_to: int = 0  # a listing ends before this cookie,
    may_go_on: bool = False  # or else goes on once more, to the names made meanwhile


class Handles:
    """Counts of lookups, by inode, and open files, by handle.

    The kernel looks an inode up before it opens it, and forgets it after the last close: as long as
    the lookup count is not zero, an inode may be asked for, name or no name.
    """

    def __init__(self) -> None:
        self._lookups: dict[InodeNumber, int] = {}
        self._open: dict[FileHandleT, Handle] = {}
        self._writers: dict[InodeNumber, int] = {}
        self._next = 1
        self._used = time.monotonic()

    def __getitem__(self, handle: FileHandleT) -> Handle:
        self._used = time.monotonic()
        try:
            return self._open[handle]
        except KeyError:
            raise InvalidArgument(f"no open file {handle}") from None

    # -- lookups

    def remember(self, inode: InodeNumber) -> None:
        self._lookups[inode] = self._lookups.get(inode, 0) + 1

    def forget(self, inode: InodeNumber, count: int) -> bool:
        """Take back lookups, and say whether the kernel does not know the inode any more."""
        left = self._lookups.get(inode, 0) - count
        if left > 0:
            self._lookups[inode] = left
            return False
        self._lookups.pop(inode, None)
        return True

    def known(self, inode: InodeNumber) -> bool:
        return inode in self._lookups

    # -- open files

    def open(self, inode: InodeNumber, *, writable: bool) -> FileHandleT:
        number = FileHandleT(self._next)
        self._next += 1
        self._open[number] = Handle(inode, writable)
        if writable:
            self._writers[inode] = self._writers.get(inode, 0) + 1
        return number

    def close(self, handle: FileHandleT) -> Handle:
        closed = self._open.pop(handle)
        closed.ahead.drop_queue()  # nobody will ask for it
        if closed.writable:
            left = self._writers[closed.inode] - 1
            if left:
                self._writers[closed.inode] = left
            else:
                del self._writers[closed.inode]
        return closed

    def idle_seconds(self) -> float:
        """Return how long no open file was asked for anything."""
        return time.monotonic() - self._used

    def written(self) -> list[InodeNumber]:
        """Return the files that are open for writing."""
        return list(self._writers)

    def being_written(self, inode: InodeNumber) -> bool:
        """Whether anybody has the file open for writing, a mapping included."""
        return inode in self._writers
