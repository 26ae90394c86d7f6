"""Copies: whole files whose content is in chunks, too, and that the kernel reads for programs.

A copy that programs have open or mapped is *in use*, and stays: the kernel demands that all opens
of an inode at a time have the same file. Others are *hot*: as long as there is room for them, so
that the next program reads the file as fast as one on the disk. The least recently used go first.

The kernel may fail to write a copy back, and then reads the disk's bytes. So no program gets a copy
before it is *proven*: synced without a failure. Programs that had the whole file open before have
it in any case.

A copy has no row in the index, and the next opening of the store deletes its file. It is never the
only place of a byte that is durable. A change of a file drops its copy, or makes it the content
again if it is in use: see `whole_files`.

Example. With `size_max` 3 GB, models of 1 GB and 2 GB were written and are in chunks: both stay
hot. A third one of 1 GB becomes hot, and the first one's copy is deleted. The disk gets full,
`size_max` becomes 0, and `shrink` deletes the others, but for one that a program has mapped.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.tables import InodeNumber

# A smaller file is read from its chunks in a moment.
SIZE_MIN: Final = 1 << 20


@dataclass(slots=True)
class _Copy:
    whole: WholeFile
    size: int  # bytes on the disk
    used_at: float = field(default_factory=time.monotonic)  # monotonic seconds


class Copies:
    """The copies of a store, the least recently used first. For the owner's thread."""

    def __init__(self, delete: Callable[[WholeFile], None]) -> None:
        """Begin without a copy; `delete` deletes the file of one that is dropped."""
        self._delete = delete
        self._copies: dict[InodeNumber, _Copy] = {}
        self.size_max = 0  # bytes of copies that may be kept
        self.bytes = 0  # of all copies, on the disk

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[InodeNumber]:
        return iter(list(self._copies))

    def find(self, inode: InodeNumber) -> WholeFile | None:
        """Return the copy of a file, None if it has none."""
        return self._copies[inode].whole if inode in self._copies else None

    def proven(self, inode: InodeNumber) -> WholeFile | None:
        """Return the copy of a file that a program opens, None if the disk may lack its bytes."""
        copy = self._copies.pop(inode, None)
        if copy is None:
            return None
        copy.used_at = time.monotonic()
        self._copies[inode] = copy
        return copy.whole if copy.whole.is_proven else None

    def unproven(self) -> list[tuple[InodeNumber, WholeFile]]:
        """Return the copies whose bytes the disk may lack."""
        copies = ((inode, copy.whole) for inode, copy in self._copies.items())
        return [(inode, whole) for inode, whole in copies if not whole.is_proven]

    def is_in_use(self, inode: InodeNumber) -> bool:
        """Whether programs have the copy of a file open or mapped."""
        copy = self.find(inode)
        return copy is not None and not copy.is_unused()

    def fits(self, size: int) -> bool:
        """Whether a file of so many bytes may become hot, once colder copies are gone."""
        return SIZE_MIN <= size <= self.size_max

    def add(self, inode: InodeNumber, whole: WholeFile) -> None:
        """Keep a whole file as the copy of an inode that has none. `shrink` may drop it."""
        assert inode not in self._copies, "it has a copy"
        size = whole.disk_bytes()
        self._copies[inode] = _Copy(whole, size)
        self.bytes += size

    def take(self, inode: InodeNumber) -> WholeFile | None:
        """Give up the copy of a file, and return it, None if there is none. Its file stays."""
        copy = self._copies.pop(inode, None)
        if copy is None:
            return None
        self.bytes -= copy.size
        return copy.whole

    def drop(self, inode: InodeNumber) -> bool:
        """Delete the copy of a file, unless it is in use; return whether there is none now."""
        if self.is_in_use(inode):
            return False
        if (whole := self.take(inode)) is not None:
            self._delete(whole)
        return True

    def shrink(self, size: int, idle_seconds: float = 0) -> None:
        """Delete the least recently used copies, until the others have `size` bytes at most.

        Small ones go in any case. Copies in use stay.

        Args:
            size: bytes of the others.
            idle_seconds: copies that were made or opened since then stay, too.
        """
        latest = time.monotonic() - idle_seconds
        for inode, copy in list(self._copies.items()):
            if (self.bytes > size and copy.used_at <= latest) or copy.size < SIZE_MIN:
                self.drop(inode)
