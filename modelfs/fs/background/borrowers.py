"""The files that borrow: the bytes of them that were stored before, and those that take room.

Bytes take no room if they are in a chunk that was there before the file borrowed: all chunks of the
bytes that a loan lets it write have higher numbers. A use by another file is no proof: both may
have been written in the same loan, and a file may have the same bytes twice.

Example. The next new chunk is 70 when a program begins to copy a stored model into a full store. It
borrows for 2.5 MiB, which are in the chunks 12, 13 and 70 then: 2 MiB are copied, and 0.5 MiB are a
piece that may not be complete. When 0.5 MiB more were written and ingested, chunk 14 is in the
place of 70, and all are copied.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Protocol

from modelfs.store.index.counters import NEXT_CHUNK
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.store import Store


@dataclass(frozen=True, slots=True)
class Verdict:
    """Bytes of a file by their chunks. Those without one, such as staged ones, are in none."""

    copied: RangeSet  # in chunks that were there before
    new: int
    incomplete: int  # in new chunks that may be replaced when more bytes follow


class BorrowingFiles(Protocol):
    """The files of a store, for loans."""

    @property
    def chunk_size(self) -> int: ...

    def next_chunk(self) -> ChunkId:
        """Return the number of the next new chunk."""

    def is_empty(self, inode: InodeNumber) -> bool:
        """Whether a file has no bytes but holes."""

    def staged(self, inode: InodeNumber) -> RangeSet:
        """Return the bytes of a file that are not in chunks yet."""

    async def verdict_on(self, inode: InodeNumber, ranges: RangeSet, before: ChunkId) -> Verdict:
        """Return the verdict on ranges of a file, see `verdict_on`."""


class StoredFiles:
    """The files of a mounted store."""

    def __init__(
        self, store: Store, call: Callable[[Callable[[], Verdict]], Awaitable[Verdict]]
    ) -> None:
        """Create it; `call` calls a function on a thread, and returns its result."""
        self._store = store
        self._call = call

    @property
    def chunk_size(self) -> int:
        return self._store.superblock.chunk_size

    def next_chunk(self) -> ChunkId:
        return ChunkId(self._store.counters.get(NEXT_CHUNK))

    def is_empty(self, inode: InodeNumber) -> bool:
        contents = self._store.contents
        return contents.allocated(contents.node(inode)) == 0

    def staged(self, inode: InodeNumber) -> RangeSet:
        staged = self._store.staging.find(inode)
        return RangeSet() if staged is None else staged.ranges()

    async def verdict_on(self, inode: InodeNumber, ranges: RangeSet, before: ChunkId) -> Verdict:
        # Off the event loop, as it looks at each extent of a loan.
        return await self._call(partial(verdict_on, self._store, inode, ranges, before))


def verdict_on(store: Store, inode: InodeNumber, ranges: RangeSet, before: ChunkId) -> Verdict:
    """Return the verdict on ranges of a file that were staged and are in chunks by now. Any thread.

    A piece at the end of a range may lack the bytes that follow, which makes it a chunk of its own
    until they are there. It may end before the range does, since a program may write while its
    bytes are ingested.

    Args:
        store: the store.
        inode: of the file.
        ranges: of it.
        before: the chunks below this number were there before.
    """
    copied, new, incomplete = RangeSet(), 0, 0
    for start, stop in ranges:
        extents = [*store.maps.overlapping(inode, start, stop)]
        for extent, following in zip_longest(extents, extents[1:]):
            part = extent.part(start, stop)
            if extent.chunk < before:
                copied.add(part.start, part.stop)
            elif following is not None or extent.length == store.superblock.chunk_size:
                new += part.length
            else:
                incomplete += part.length
    return Verdict(copied, new, incomplete)
