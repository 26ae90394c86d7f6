"""Copies: whole files whose content is in chunks, too, and that the kernel reads for programs.

A copy that programs have open or mapped is *in use*, and stays: the kernel demands that all opens
of an inode at a time have the same file. Others are *hot*: as long as there is room for them, so
that the next program reads the file as fast as one on the disk. The least recently used go first.

A copy has no row in the index, and the next opening of the store deletes its file. It is never the
only place of a byte that is durable. A change of a file drops its copy, or makes it the content
again if it is in use: see `whole_files`.

Example. With `size_max` 3 GB, models of 1 GB and 2 GB were written and are in chunks: both stay
hot. A third one of 1 GB becomes hot, and the first one's copy is deleted. The disk gets full,
`size_max` becomes 0, and `shrink` deletes the others, but for one that a program has mapped.
"""

from collections.abc import Callable, Iterator
from typing import Final

from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.tables import InodeNumber

# A smaller file is read from its chunks in a moment.
SIZE_MIN: Final = 1 << 20


class Copies:
    """The copies of a store, the least recently used first. For the owner's thread."""

    def __init__(self, delete: Callable[[WholeFile], None]) -> None:
        """Begin without a copy; `delete` deletes the file of one that is dropped."""
        self._delete = delete
        self._copies: dict[InodeNumber, tuple[WholeFile, int]] = {}  # with the bytes on the disk
        self.size_max = 0  # bytes of copies that may be kept
        self.bytes = 0  # of all copies, on the disk

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[InodeNumber]:
        return iter(list(self._copies))

    def find(self, inode: InodeNumber) -> WholeFile | None:
        """Return the copy of a file, None if it has none."""
        return self._copies[inode][0] if inode in self._copies else None

    def touch(self, inode: InodeNumber) -> None:
        """Note that a program opens a file."""
        if inode in self._copies:
            self._copies[inode] = self._copies.pop(inode)

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
        self._copies[inode] = whole, size
        self.bytes += size

    def take(self, inode: InodeNumber) -> WholeFile | None:
        """Give up the copy of a file, and return it, None if there is none. Its file stays."""
        whole, size = self._copies.pop(inode, (None, 0))
        self.bytes -= size
        return whole

    def drop(self, inode: InodeNumber) -> bool:
        """Delete the copy of a file, unless it is in use; return whether there is none now."""
        if self.is_in_use(inode):
            return False
        if (whole := self.take(inode)) is not None:
            self._delete(whole)
        return True

    def shrink(self, size: int) -> None:
        """Delete the least recently used copies, until the others have `size` bytes at most.

        Small ones go in any case. Copies in use stay.
        """
        for inode, (_, on_disk) in list(self._copies.items()):
            if self.bytes > size or on_disk < SIZE_MIN:
                self.drop(inode)
