"""The overlay of a file's map by its staged ranges."""

from collections.abc import Callable, Iterator

import pytest

from modelfs.store.files.overlay import overlay
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_file
from tests.support.stores import CHUNK, noise, stored_file

pytestmark = pytest.mark.usefixtures("windows")


def map_of(store: Store) -> Callable[[InodeNumber, int, int], Iterator[tuple[Extent, ChunkId]]]:
    """Return a map of files in which a chunk's number stands for its record."""
    return lambda inode, start, stop: (
        (extent, extent.chunk) for extent in store.maps.within(inode, start, stop)
    )


def test_the_overlay_of_a_map_by_staged_ranges(opened: Store) -> None:
    """Staged ranges lie over extents, extents count up to a cut, and holes fill the rest."""
    inode = stored_file(opened, b"f", noise(3 * CHUNK))
    opened.writes.truncate(inode, 2 * CHUNK)
    opened.writes.truncate(inode, 9000)
    opened.writes.write(inode, 4000, b"x" * 10)
    staged = opened.contents.snapshot(inode)
    first, second = list(opened.maps.within(inode, 0, 2 * CHUNK))
    mapped = map_of(opened)
    assert list(overlay(inode, staged, 0, 9000, mapped)) == [
        (0, 4000, (first.part(0, 4000), first.chunk)),
        (4000, 4010, staged.windows[0]),
        (4010, CHUNK, (first.part(4010, CHUNK), first.chunk)),
        (CHUNK, 2 * CHUNK, (second, second.chunk)),
        (2 * CHUNK, 9000, None),
    ]
    assert list(overlay(inode, staged, 4005, 4020, mapped)) == [
        (4005, 4010, staged.windows[0]),
        (4010, 4020, (first.part(4010, 4020), first.chunk)),
    ]


def test_the_overlay_of_a_map_alone(opened: Store) -> None:
    """A file without staged content is its extents and the holes between them."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    opened.writes.write(inode, 5 * CHUNK, noise(100))
    ingest_file(opened, inode)
    first, last = list(opened.maps.within(inode, 0, 6 * CHUNK))
    mapped = map_of(opened)
    assert list(overlay(inode, None, 0, 6 * CHUNK, mapped)) == [
        (0, CHUNK, (first, first.chunk)),
        (CHUNK, 5 * CHUNK, None),
        (5 * CHUNK, 5 * CHUNK + 100, (last, last.chunk)),
        (5 * CHUNK + 100, 6 * CHUNK, None),
    ]
    assert list(overlay(inode, None, 7 * CHUNK, 7 * CHUNK, mapped)) == []
