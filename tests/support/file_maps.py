"""Maps of files: their data, and maps of many extents."""

from modelfs.store.files.overlay import overlay
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store


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
