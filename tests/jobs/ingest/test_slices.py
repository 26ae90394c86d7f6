"""A region is applied in slices, and no byte is lost by an event between two of them."""

from collections.abc import Iterator

import pytest

from modelfs.jobs.ingest import apply as apply_module
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.chunks import publish
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.files import flush
from modelfs.store.index.tables import ROOT, InodeNumber, PackId, Table
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    model_of,
    new_file,
    noise,
    pack_path,
    small_windows,
    stored_file,
)

WINDOW = 4 * CHUNK
SLICES = 8  # at least, of one region
DATA = noise(2 * WINDOW)


@pytest.fixture(autouse=True)
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every extent, chunk and tensor a slice."""
    small_windows(monkeypatch, WINDOW)
    monkeypatch.setattr(apply_module, "EXTENTS_SLICE", 1)
    monkeypatch.setattr(apply_module, "ROWS_SLICE", 1)
    monkeypatch.setattr(publish, "SLICE", 1)
    monkeypatch.setattr(flush, "TRIM_SLICE", 1)


def work_on_first_region(store: Store, inode: InodeNumber) -> tuple[Region, WriteResult]:
    """Begin a pass, and do the work of its first region."""
    applier = Applier(store)
    region = applier.next_region(applier.begin_pass(inode, complete=True))
    assert region is not None
    done, result = Worker(store).work([region], store.writer())
    assert done == [region]
    return region, result


def publish_first_region(store: Store, inode: InodeNumber) -> Region:
    """Begin a pass, and do its first region except for changes of the map."""
    region, result = work_on_first_region(store, inode)
    drain(store.publish(result))
    assert len(region.extents) >= SLICES
    return region


def apply(store: Store, region: Region, count: int) -> Iterator[None]:
    """Apply `count` slices of a region, and return the iterator that applies the others."""
    rest = Applier(store).apply(region)
    for _ in range(count):
        next(rest)
    return rest


@pytest.mark.parametrize("count", range(SLICES))
def test_a_crash_between_slices_keeps_what_was_flushed(box: Box, count: int) -> None:
    """After a commit between any two slices and a crash, a flushed file is complete."""
    inode = new_file(box.store, b"f", DATA)
    box.store.flush(inode)
    apply(box.store, publish_first_region(box.store, inode), count)
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) == DATA
    ingest_all(store)
    assert content_of(store, inode) == DATA


@pytest.mark.parametrize("count", range(SLICES))
def test_a_crash_between_slices_shows_no_part_of_a_new_file(box: Box, count: int) -> None:
    """After a crash, a file that was never flushed is empty, and zeros if it is made longer."""
    inode = new_file(box.store, b"f", DATA)
    apply(box.store, publish_first_region(box.store, inode), count)
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) == b""
    store.writes.truncate(inode, len(DATA))
    assert content_of(store, inode) == bytes(len(DATA))


@pytest.mark.parametrize("count", range(1, SLICES))
def test_a_crash_between_slices_brings_back_no_cut_off_bytes(box: Box, count: int) -> None:
    """Durable windows that a truncation dropped do not lie above the extents of new content."""
    store = box.store
    inode = new_file(store, b"f", noise(4 * WINDOW, 1))
    store.flush(inode)
    store.commit()
    store.writes.truncate(inode, 0)
    store.writes.write(inode, 2 * WINDOW, DATA)
    apply(store, publish_first_region(store, inode), count)
    store.commit()
    store = box.crash()
    assert content_of(store, inode) == b""
    store.writes.truncate(inode, 4 * WINDOW)
    assert content_of(store, inode) == bytes(4 * WINDOW)


def test_a_write_between_slices_wins(opened: Store) -> None:
    """Bytes written over an extent of an earlier slice lie above it."""
    inode = new_file(opened, b"f", DATA)
    rest = apply(opened, publish_first_region(opened, inode), 3)
    opened.writes.write(inode, 5, b"new")
    opened.writes.write(inode, 6 * CHUNK, b"new")
    drain(rest)
    wanted = bytearray(DATA)
    wanted[5:8] = wanted[6 * CHUNK : 6 * CHUNK + 3] = b"new"
    assert content_of(opened, inode) == wanted
    ingest_all(opened)
    assert content_of(opened, inode) == wanted


def test_a_truncation_between_slices_wins(opened: Store) -> None:
    """Bytes that were cut off between two slices do not come back."""
    inode = new_file(opened, b"f", DATA)
    rest = apply(opened, publish_first_region(opened, inode), 3)
    opened.writes.truncate(inode, CHUNK + 10)
    opened.writes.truncate(inode, len(DATA))
    drain(rest)
    wanted = DATA[: CHUNK + 10].ljust(len(DATA), b"\0")
    assert content_of(opened, inode) == wanted
    ingest_all(opened)
    assert content_of(opened, inode) == wanted


def test_a_flush_between_slices_is_kept(box: Box) -> None:
    """Bytes that were flushed between two slices survive a crash before the last one."""
    store = box.store
    inode = new_file(store, b"f", DATA)
    rest = apply(store, publish_first_region(store, inode), 3)
    store.writes.write(inode, 5, b"new")
    store.flush(inode)
    for _ in range(2):
        next(rest)
    store.commit()
    assert content_of(box.crash(), inode) == DATA[:5] + b"new" + DATA[8:]


def test_a_removal_between_slices_ends_the_region(opened: Store) -> None:
    """A file that is removed before the last slice leaves no extents."""
    inode = new_file(opened, b"f", DATA)
    region = publish_first_region(opened, inode)
    rest = apply(opened, region, 3)
    opened.namespace.unlink(ROOT, b"f")
    drain(opened.orphans.remove(inode))
    assert list(rest) == []
    assert region.file_pass.done
    assert list(opened.index.pages(Table.EXTENTS)) == []


def test_a_crash_between_slices_of_new_chunks(box: Box) -> None:
    """After a crash between slices of new chunks, no number is given to two chunks."""
    store = box.store
    inode = new_file(store, b"f", DATA)
    store.flush(inode)
    _, result = work_on_first_region(store, inode)
    next(store.publish(result))
    store.commit()
    store = box.crash()
    assert len(list(store.index.pages(Table.CHUNKS))) == 1
    ingest_all(store)
    assert content_of(store, inode) == DATA
    stop = pack_path(store.packs, 1).stat().st_size
    numbers = [entry.chunk for entry in store.packs.entries(PackId(1), stop)]
    assert len(numbers) == len(set(numbers)) == 2 * SLICES - 1


@pytest.mark.parametrize("count", [0, 3, 7])
def test_a_file_that_is_cut_again_reads_the_same_between_slices(box: Box, count: int) -> None:
    """Between the slices that replace a file's extents, every byte reads the same."""
    data = model_of(*(noise(1000, number) for number in range(20)))
    inode = stored_file(box.store, b"f", b"\0" + data[1:])
    box.store.writes.write(inode, 0, data[:1])
    box.store.flush(inode)
    apply(box.store, publish_first_region(box.store, inode), count)
    box.store.commit()
    assert content_of(box.crash(), inode) == data
