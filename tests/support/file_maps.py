"""Maps of files: their data, maps of many extents, and bytes to compare them with."""

from typing import Final

from modelfs.store.files.overlay import overlay
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import CHUNK

# At and near the bounds of chunks.
EDGES: Final = [0, *(CHUNK * number + more for number in range(1, 9) for more in (-1, 0, 700))]


def data_of(store: Store, inode: InodeNumber) -> RangeSet:
    """Return the ranges of data of a file, as its overlay has them."""
    runs = overlay(
        inode,
        store.staging.find(inode),
        0,
        store.contents.node(inode).size,
        lambda inode, start, stop: ((each, None) for each in store.maps.within(inode, start, stop)),
    )
    return RangeSet((start, stop) for start, stop, source in runs if source is not None)


def cut_into_bytes(store: Store, inode: InodeNumber, start: int, stop: int) -> None:
    """Replace the extents of a file's range, of one chunk, by extents of one byte each."""
    (old,) = store.maps.within(inode, start, stop)
    with store.index.change():
        for at in range(start, stop):
            part = Extent(at, old.chunk, old.skip + at - old.start, 1)
            store.maps.replace(inode, at, at + 1, [part])


class ByteModel:
    """A file's bytes, and which of them are data."""

    def __init__(self) -> None:
        self.content = b""
        self.data = RangeSet()

    def write(self, offset: int, data: bytes) -> None:
        stop = offset + len(data)
        content = self.content.ljust(stop, b"\0")
        self.content = content[:offset] + data + content[stop:]
        self.data.add(offset, stop)

    def truncate(self, size: int) -> None:
        self.data.remove(size, len(self.content))
        self.content = self.content[:size].ljust(size, b"\0")

    def punch(self, start: int, stop: int) -> None:
        stop = min(stop, len(self.content))
        if start < stop:
            self.content = self.content[:start] + bytes(stop - start) + self.content[stop:]
            self.data.remove(start, stop)

    def copy(self, source: "ByteModel", start: int, size: int, at: int) -> None:
        """Copy a range of another file, with its holes."""
        if not size:
            return
        data = [
            (low - start + at, high - start + at)
            for low, high in source.data.within(start, start + size)
        ]
        self.write(at, source.content[start : start + size])
        self.data.remove(at, at + size)
        for low, high in data:
            self.data.add(low, high)
