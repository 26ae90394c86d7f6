"""Collecting garbage, and nothing else."""

import errno
import logging

import pytest

from modelfs.errors import CorruptChunk
from modelfs.jobs.gc import collector as gc_module
from modelfs.jobs.ingest.copies import SIZE_MIN
from modelfs.store.index.tables import ROOT, InodeNumber, PackId, Table
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)


def filled(store: Store, count: int) -> list[InodeNumber]:
    """Make files of a few chunks each, no two alike."""
    return [stored_file(store, b"%d" % number, noise(4 * CHUNK, number)) for number in range(count)]


def unlink(store: Store, *numbers: int) -> None:
    for number in numbers:
        assert store.orphans.reap(store.namespace.unlink(ROOT, b"%d" % number))


def test_nothing_to_collect_is_nothing_done(opened: Store) -> None:
    """In a store without garbage, gc finds nothing and frees nothing."""
    inodes = filled(opened, 3)
    assert opened.collector.survey().dead_chunks == 0
    assert opened.collect() == 0
    assert [content_of(opened, each) for each in inodes] == [
        noise(4 * CHUNK, number) for number in range(3)
    ]


def test_a_pack_with_little_left_is_rewritten(opened: Store) -> None:
    """What is alive in a sparse pack is copied, the rest and its file go after the commit."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    found = opened.collector.survey()
    assert found.dead_chunks == 12
    assert found.dead_bytes == 12 * CHUNK
    assert opened.collect() > 16 * CHUNK
    assert opened.packs.numbers() == {PackId(2)}
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    assert opened.collector.survey().packs == 0


def test_a_pack_with_much_left_is_kept(opened: Store) -> None:
    """Rewriting is not worth a little room: dead chunks lose their records only."""
    filled(opened, 4)
    unlink(opened, 0)
    assert opened.collect() == 0
    assert opened.packs.numbers() == {PackId(1)}
    assert len(list(opened.index.pages(Table.CHUNKS))) == 12


def test_a_planned_read_outlives_the_pack(opened: Store) -> None:
    """Who planned to read from a pack that is rewritten gets the bytes all the same."""
    (*_, inode) = filled(opened, 4)
    unverified = opened.contents.plan(inode, 0, 4 * CHUNK)
    content_of(opened, inode)
    verified = opened.contents.plan(inode, 0, 4 * CHUNK)
    unlink(opened, 0, 1, 2)
    opened.collect()
    assert opened.contents.gather(unverified) == noise(4 * CHUNK, 3)
    assert opened.contents.gather(verified) == noise(4 * CHUNK, 3)


def test_a_dead_chunk_is_revived(opened: Store) -> None:
    """Content that comes back before gc takes it costs no room."""
    filled(opened, 1)
    unlink(opened, 0)
    size = pack_path(opened.packs, 1).stat().st_size
    inode = stored_file(opened, b"again", noise(4 * CHUNK, 0))
    opened.collect()
    assert content_of(opened, inode) == noise(4 * CHUNK, 0)
    assert pack_path(opened.packs, 1).stat().st_size == size


def test_dead_chunks_go_in_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are removed a few at a time, and all of them in the end."""
    monkeypatch.setattr(gc_module, "SLICE", 3)
    filled(opened, 2)
    unlink(opened, 0, 1)
    counts: list[int] = []
    while count := opened.collector.remove_dead():
        counts.append(count)
    assert counts == [3, 3, 2]
    opened.collect()


def test_chunks_that_die_between_slices_go_too(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that dies while gc is at work, before where it is, is not forgotten."""
    monkeypatch.setattr(gc_module, "SLICE", 3)
    filled(opened, 3)
    unlink(opened, 2)
    assert opened.collector.remove_dead() == 3
    unlink(opened, 0, 1)
    while opened.collector.remove_dead():
        pass
    while opened.collector.remove_dead():
        pass
    assert list(opened.index.pages(Table.DEAD)) == []


def test_a_crash_while_collecting_loses_nothing(box: Box) -> None:
    """Before the commit the old pack is there, and after it the new one."""
    inodes = filled(box.store, 4)
    unlink(box.store, 0, 1, 2)
    box.store.commit()
    store = box.store
    while store.collector.remove_dead():
        pass
    store.seal_pack(PackId(1))
    writer = store.writer()
    store.collector.copy_live(PackId(1), writer)
    store.intake.publish(writer.finish())
    assert store.collector.retire(PackId(1))
    store = box.crash()
    assert content_of(store, inodes[3]) == noise(4 * CHUNK, 3)
    assert store.packs.numbers() == {PackId(1)}
    store.collect()
    assert content_of(box.crash(), inodes[3]) == noise(4 * CHUNK, 3)


def test_a_damaged_chunk_keeps_its_pack(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read is not thrown away: the rest moves, the pack stays, once."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    extent = next(opened.maps.within(inodes[3], 0, 1))
    record = opened.chunks.record(extent.chunk)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([noise(1, 3)[0] ^ 1, 77]))
    assert opened.collect() == 0
    assert {each.levelno for each in caplog.records} == {logging.ERROR}
    assert PackId(1) in opened.packs.numbers()
    assert opened.collector.sparse_packs() == []
    with pytest.raises(CorruptChunk):
        content_of(opened, inodes[3])
    assert opened.contents.read(inodes[3], CHUNK, CHUNK) == noise(4 * CHUNK, 3)[CHUNK : 2 * CHUNK]
    overwrite(path, record.offset, noise(4 * CHUNK, 3)[:2])


def test_a_pack_that_cannot_be_read_keeps_no_other(
    opened: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that fails at one pack does not keep the rest from being collected."""
    first = filled(opened, 4)
    opened.seal_pack(PackId(1))
    second = stored_file(opened, b"second", noise(4 * CHUNK, 4))
    stored_file(opened, b"4", noise(8 * CHUNK, 5))
    unlink(opened, 0, 1, 2, 4)
    real = opened.packs.read

    def broken(pack: PackId, offset: int, size: int) -> bytes:
        if pack == 1 and size == CHUNK:
            raise OSError(errno.EIO, "broken")
        return real(pack, offset, size)

    with monkeypatch.context() as patch:
        patch.setattr(opened.packs, "read", broken)
        assert opened.collect() > 12 * CHUNK
    assert "pack 1 is kept" in caplog.text
    assert opened.packs.numbers() == {PackId(1), PackId(3)}
    assert content_of(opened, first[3]) == noise(4 * CHUNK, 3)
    assert content_of(opened, second) == noise(4 * CHUNK, 4)


def test_a_pack_cut_short_is_kept(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A pack that ends inside its chunks keeps what it has."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    path = pack_path(opened.packs, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: -2 * CHUNK])
    assert opened.collect() == 0
    assert {each.levelno for each in caplog.records} == {logging.ERROR}
    assert opened.packs.numbers() >= {PackId(1)}
    path.write_bytes(whole)
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)


def test_a_pack_with_damaged_tables_is_kept(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """What a pack holds cannot be told from a damaged table: it stays as it is."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    path = pack_path(opened.packs, 1)
    overwrite(path, PAGE, b"X")
    opened.collect()
    assert {each.levelno for each in caplog.records} == {logging.ERROR}
    assert PackId(1) in opened.packs.numbers()
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    overwrite(path, PAGE, b"M")


def test_a_damaged_chunk_that_died_does_not_keep_its_pack(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead chunk that cannot be copied goes with its pack, record and all."""
    inodes = filled(opened, 1)
    extent = next(opened.maps.within(inodes[0], 0, 1))
    record = opened.chunks.record(extent.chunk)
    while opened.collector.remove_dead():
        pass
    unlink(opened, 0)
    overwrite(pack_path(opened.packs, 1), record.offset, b"damage")
    opened.seal_pack(PackId(1))
    writer = opened.writer()
    opened.collector.copy_live(PackId(1), writer)
    opened.intake.publish(writer.finish())
    assert opened.collector.retire(PackId(1))
    opened.commit()
    assert opened.chunks.find(extent.chunk) is None
    caplog.clear()
    opened.collect()


def test_a_rewrite_that_fails_leaves_all_as_it_was(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while a pack is rewritten loses nothing, and it may be tried again."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_at", full)
        with pytest.raises(OSError, match="space"):
            opened.collect()
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    assert opened.collect() > 0
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    more = new_file(opened, b"more", noise(CHUNK, 99))
    opened.ingest_all()
    assert content_of(opened, more) == noise(CHUNK, 99)


def test_hints_go_in_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What files that are gone looked like is forgotten a few rows at a time, and nothing else."""
    monkeypatch.setattr(gc_module, "SLICE", 2)
    for number in range(6):
        stored_file(opened, b"%d" % number, noise(SIZE_MIN, number))
    unlink(opened, 0, 1, 2, 5)
    slices = 1
    while not opened.collector.sweep():
        slices += 1
    assert slices > 2
    assert len(list(opened.index.pages(Table.COPY_HINTS))) == 2
