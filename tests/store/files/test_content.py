"""The content of files: reads of staged ranges over chunks."""

from pathlib import Path

import pytest

from modelfs.errors import CorruptChunk
from modelfs.store.files.read_runs import FileRun
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.golden_stores import GOLDENS, golden_store
from tests.support.run_jobs import ingest_all
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    durable,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)

pytestmark = pytest.mark.usefixtures("windows")


def test_reads_are_clipped_to_the_size(opened: Store) -> None:
    """A read past the end is short; one behind the end is empty."""
    inode = new_file(opened, b"f", b"0123456789")
    assert opened.contents.read(inode, 8, 100) == b"89"
    assert opened.contents.read(inode, 10, 100) == b""
    assert opened.contents.read(inode, 1000, 100) == b""


def test_staged_bytes_lie_over_chunks(opened: Store) -> None:
    """A write into a stored file is read, and all bytes around it."""
    data = noise(5 * CHUNK)
    inode = stored_file(opened, b"f", data)
    opened.writes.write(inode, CHUNK + 7, b"new")
    assert content_of(opened, inode) == data[: CHUNK + 7] + b"new" + data[CHUNK + 10 :]


def test_verified_neighbours_are_one_run(opened: Store) -> None:
    """Plain chunks that are neighbours in a pack are read with one call."""
    inode = stored_file(opened, b"f", noise(4 * CHUNK))
    content_of(opened, inode)
    (run,) = opened.contents.plan(inode, 0, 4 * CHUNK)
    assert isinstance(run, FileRun)


def test_a_planned_read_outlives_changes(opened: Store) -> None:
    """A planned read returns the old bytes, even after the file was ingested and cut."""
    inode = new_file(opened, b"f", b"before")
    plan = opened.contents.plan(inode, 0, 100)
    opened.writes.truncate(inode, 0)
    ingest_all(opened)
    assert opened.contents.gather(plan) == b"before"


def test_a_damaged_chunk_fails_its_bytes_only(opened: Store) -> None:
    """Reads of a damaged chunk raise; reads of the file's other chunks succeed."""
    data = noise(3 * CHUNK)
    inode = stored_file(opened, b"f", data)
    first = next(opened.maps.within(inode, 0, 1))
    record = opened.chunks.record(first.chunk)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([data[0] ^ 1]))
    with pytest.raises(CorruptChunk):
        opened.contents.read(inode, 0, 10)
    assert opened.contents.read(inode, CHUNK, 2 * CHUNK) == data[CHUNK:]
    overwrite(path, record.offset, data[:1])


# -- allocated bytes


def allocated(store: Store, inode: InodeNumber) -> int:
    return store.contents.allocated(store.contents.node(inode))


def test_holes_are_not_allocated(box: Box) -> None:
    """Staged and ingested bytes are allocated, holes are not, and truncations give bytes back."""
    store = box.store
    inode = new_file(store, b"f", b"")
    store.writes.truncate(inode, 1 << 30)
    assert allocated(store, inode) == 0
    store.writes.write(inode, 1 << 20, noise(5000))
    assert allocated(store, inode) == 5000
    durable(store, inode)
    ingest_all(store)
    assert (allocated(store, inode), store.inodes.get(inode).size) == (5000, 1 << 30)
    store.writes.write(inode, 100, noise(70))
    assert allocated(store, inode) == 5070
    store.writes.truncate(inode, (1 << 20) + 1000)
    ingest_all(store)
    assert allocated(store, inode) == 1070


def test_no_more_is_allocated_than_the_size(box: Box) -> None:
    """Bytes that are rewritten in place count once where the file has no holes."""
    store = box.store
    inode = stored_file(store, b"f", noise(10_000))
    store.writes.write(inode, 0, noise(5000, 1))
    assert allocated(store, inode) == 10_000
    store.writes.truncate(inode, 100)
    assert allocated(store, inode) == 100


@pytest.mark.parametrize("version", GOLDENS)
@pytest.mark.parametrize("read_only", [True, False])
def test_old_files_are_allocated(tmp_path: Path, version: int, *, read_only: bool) -> None:
    """In a store of an older format a file has its size allocated before an upgrade, and after."""
    with Store(golden_store(tmp_path, version), read_only=read_only) as store:
        inode = store.namespace.lookup(ROOT, b"second name")
        assert allocated(store, inode) == store.inodes.get(inode).size > 0
