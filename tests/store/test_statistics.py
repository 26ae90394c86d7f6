"""The statistics of a store."""

from modelfs.store.index.counters import FormTotals
from modelfs.store.index.tables import ROOT
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import CHUNK, Box, content_of, new_file, noise, stored_file


def test_sum_of_the_longest_files(box: Box) -> None:
    """Files whose lengths sum up to more than 64 bits are counted, committed and checked."""
    longest = (1 << 63) - 1
    inodes = [new_file(box.store, name) for name in (b"a", b"b", b"c")]
    for inode in inodes:
        box.store.writes.truncate(inode, longest)
    ingest_all(box.store)
    box.reopen()
    assert box.store.inventory.statistics().logical_bytes == 3 * longest
    for inode in inodes:
        box.store.writes.truncate(inode, 1)
    assert box.store.inventory.statistics().logical_bytes == 3


def test_statistics_add_up(opened: Store) -> None:
    """Shared, stored and staged bytes are counted."""
    for name in (b"a", b"b"):
        stored_file(opened, name, noise(2 * CHUNK))
    new_file(opened, b"c", b"staged")
    statistics = opened.inventory.statistics()
    assert statistics.files == 3
    assert statistics.logical_bytes == 4 * CHUNK + 6
    assert statistics.stored_bytes == statistics.shared_bytes == 2 * CHUNK
    assert statistics.chunks == 2
    assert statistics.staged_bytes == 6
    assert statistics.pending_files == 1
    assert statistics.forms == {"plain": FormTotals(2, 2 * CHUNK, 2 * CHUNK)}
    assert statistics.disk_bytes >= 2 * CHUNK + PAGE


def test_collecting_frees_unused_chunks(opened: Store) -> None:
    """After a file is removed and collected, only the others' bytes are stored."""
    stored_file(opened, b"a", noise(4 * CHUNK, 1))
    kept = stored_file(opened, b"b", noise(CHUNK, 2))
    opened.namespace.unlink(ROOT, b"a")
    assert collect(opened) > 4 * CHUNK
    assert opened.inventory.statistics().stored_bytes == CHUNK
    assert content_of(opened, kept) == noise(CHUNK, 2)
