"""Garbage is collected, and nothing else."""

import errno
import logging

import hypothesis.strategies as st
import pytest
from hypothesis import given

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptChunk, CorruptIndex
from modelfs.jobs.gc import collector as collector_module
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL
from modelfs.jobs.ingest.copies import SIZE_MIN
from modelfs.store.chunks import reclaim
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import (
    ROOT,
    ChunkId,
    InodeNumber,
    PackId,
    Table,
    number_key,
    number_of,
)
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs import segment as segment_module
from modelfs.store.packs.pack import SegmentTable
from modelfs.store.packs.segment import ALIGN_FROM, PAGE, PackedSize, Segment
from modelfs.store.store import Store
from tests.support.run_jobs import collect, collect_with, collector_of, drain, ingest_all
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    model_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)


def filled(store: Store, count: int) -> list[InodeNumber]:
    """Store files of four chunks each, all different."""
    return [stored_file(store, b"%d" % number, noise(4 * CHUNK, number)) for number in range(count)]


def unlink(store: Store, *numbers: int) -> None:
    for number in numbers:
        drain(store.orphans.remove(store.namespace.unlink(ROOT, b"%d" % number)))


def test_without_garbage_nothing_is_freed(opened: Store) -> None:
    """In a store without garbage, gc finds nothing and frees nothing."""
    inodes = filled(opened, 3)
    assert collector_of(opened).survey().dead_chunks == 0
    assert collect(opened) == 0
    assert [content_of(opened, inode) for inode in inodes] == [
        noise(4 * CHUNK, number) for number in range(3)
    ]


def test_a_sparse_pack_is_rewritten(opened: Store) -> None:
    """Live chunks of a sparse pack are copied; the others and its file go after the commit."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    garbage = collector_of(opened).survey()
    assert garbage.dead_chunks == 12
    assert garbage.dead_bytes == 12 * CHUNK
    assert collect(opened) > 12 * CHUNK
    assert opened.packs.numbers() == {PackId(2)}
    assert not pack_path(opened.packs, 1).exists()
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    assert collector_of(opened).survey().packs == 0


def test_a_pack_that_is_mostly_live_is_kept(opened: Store) -> None:
    """A pack with few dead bytes is not rewritten: dead chunks lose their records only."""
    filled(opened, 4)
    unlink(opened, 0)
    assert collect(opened) == 0
    assert opened.packs.numbers() == {PackId(1)}
    assert len(list(opened.index.pages(Table.CHUNKS))) == 12


def test_tables_and_padding_are_no_garbage(opened: Store) -> None:
    """A pack of tiny chunks is not rewritten if a new one would not be smaller."""
    model = model_of(*(noise(160, number) for number in range(400)))
    inode = stored_file(opened, b"model", model)
    row = opened.chunks.pack_row(PackId(1))
    assert row.live < 0.9 * row.stop
    collector = collector_of(opened)
    assert collect_with(opened, collector, LIVE_MIN_SMALL).packs == 0
    assert opened.packs.numbers() == {PackId(1)}
    assert content_of(opened, inode) == model


def test_a_collection_leaves_little(opened: Store) -> None:
    """After a collection for a small store, each pack is as small as a new one would be."""
    filled(opened, 40)
    unlink(opened, *range(0, 40, 13))
    collect_with(opened, collector_of(opened), LIVE_MIN_SMALL)
    collector = collector_of(opened)
    collector.measure(LIVE_MIN_SMALL)
    assert collector.survey(LIVE_MIN_SMALL).pack_bytes == 0


def test_a_pack_is_copied_in_portions(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of a portion are in memory, not those of a pack."""
    monkeypatch.setattr(collector_module, "PORTION_CHUNKS", 3)
    inodes = filled(opened, 6)
    unlink(opened, 0, 1, 2, 3)
    assert collect(opened) > 16 * CHUNK
    assert opened.packs.numbers() == {PackId(2)}
    assert [content_of(opened, inode) for inode in inodes[4:]] == [
        noise(4 * CHUNK, 4),
        noise(4 * CHUNK, 5),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ChunkKind.PLAIN, ChunkKind.CODED]),
            st.sampled_from([1, 160, 4096, ALIGN_FROM, 1 << 20]),
        ),
        max_size=30,
    )
)
def test_a_packed_size_is_that_of_segments(chunks: list[tuple[ChunkKind, int]]) -> None:
    """The size of chunks in a new pack is what segments of them take."""
    size, written, segment = PackedSize(), 0, Segment()
    for number, (kind, stored) in enumerate(chunks):
        size.add(kind, stored, stored)
        segment.add(ChunkId(number + 1), kind, CodecId.RAW, stored, bytes(stored))
        if segment.full:
            written, segment = written + segment.layout(PAGE)[2], Segment()
    if len(segment):
        written += segment.layout(PAGE)[2]
    assert size.total == written


def test_a_planned_read_outlives_the_pack(opened: Store) -> None:
    """A read that was planned before its pack was rewritten gets the right bytes."""
    (*_, inode) = filled(opened, 4)
    unverified = opened.contents.plan(inode, 0, 4 * CHUNK)
    content_of(opened, inode)
    verified = opened.contents.plan(inode, 0, 4 * CHUNK)
    unlink(opened, 0, 1, 2)
    collect(opened)
    assert opened.contents.gather(unverified) == noise(4 * CHUNK, 3)
    assert opened.contents.gather(verified) == noise(4 * CHUNK, 3)


def test_a_dead_chunk_is_revived(opened: Store) -> None:
    """Content that comes back before gc takes it costs no room."""
    filled(opened, 1)
    unlink(opened, 0)
    size = pack_path(opened.packs, 1).stat().st_size
    inode = stored_file(opened, b"again", noise(4 * CHUNK, 0))
    collect(opened)
    assert content_of(opened, inode) == noise(4 * CHUNK, 0)
    assert pack_path(opened.packs, 1).stat().st_size == size


def test_dead_chunks_go_in_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are removed a few at a time, and all of them in the end."""
    monkeypatch.setattr(reclaim, "SLICE", 3)
    filled(opened, 2)
    unlink(opened, 0, 1)
    assert list(opened.reclaimer.remove_dead()) == [3, 3, 2]
    collect(opened)


@pytest.mark.parametrize("size", [3, 4])
def test_chunks_that_die_between_slices_go_too(
    opened: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A chunk that dies during a collection, before the slice under way, is removed as well."""
    monkeypatch.setattr(reclaim, "SLICE", size)
    filled(opened, 3)
    unlink(opened, 2)
    slices = opened.reclaimer.remove_dead()
    assert next(slices) == size
    unlink(opened, 0, 1)
    drain(slices)
    assert list(opened.index.pages(Table.DEAD)) == []


def test_a_crash_while_collecting_loses_nothing(box: Box) -> None:
    """Before the commit the old pack is there, and after it the new one."""
    inodes = filled(box.store, 4)
    unlink(box.store, 0, 1, 2)
    box.store.commit()
    store = box.store
    drain(store.reclaimer.remove_dead())
    store.packs.seal(PackId(1))
    collector = collector_of(store)
    segments = collector.segments(PackId(1))
    result = collector.copy(collector.portion(segments, 1 << 40), store.writer())
    drain(store.publish(result))
    assert collector_of(store).retire(PackId(1))
    store = box.crash()
    assert content_of(store, inodes[3]) == noise(4 * CHUNK, 3)
    assert store.packs.numbers() == {PackId(1)}
    collect(store)
    assert content_of(box.crash(), inodes[3]) == noise(4 * CHUNK, 3)


def test_a_pack_that_is_cut_during_a_measure_is_no_damage(
    opened: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A measure beside a cut logs nothing, and is not remembered; the next one is right."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 4 * CHUNK)
    filled(opened, 8)
    unlink(opened, 0, 2)
    opened.commit()
    collector = collector_of(opened)
    opened.packs.seal(PackId(1))
    segments = collector.segments(PackId(1))
    portion = collector.portion(segments, 9 * CHUNK)
    read = opened.packs.segment

    def cut_meanwhile(pack: PackId, start: int, stop: int) -> SegmentTable:
        monkeypatch.undo()
        drain(opened.publish(collector.copy(portion, opened.writer())))
        assert collector.cut(segments, portion, has_chunks=False)
        opened.commit()
        return read(pack, start, stop)

    monkeypatch.setattr(opened.packs, "segment", cut_meanwhile)
    collector.measure(LIVE_MIN_SMALL)
    assert caplog.text == ""
    assert collector.measured(LIVE_MIN_SMALL) == collector_of(opened).measured(LIVE_MIN_SMALL)


def test_a_damaged_chunk_keeps_its_pack(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A pack with an unreadable chunk is kept and not tried again; its other chunks move."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    extent = next(opened.maps.within(inodes[3], 0, 1))
    record = opened.chunks.record(extent.chunk)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([noise(1, 3)[0] ^ 1, 77]))
    collector = collector_of(opened)
    collect_with(opened, collector)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert PackId(1) in opened.packs.numbers()
    assert collector.sparse_packs() == []
    assert collector.survey().packs == 0
    with pytest.raises(CorruptChunk):
        content_of(opened, inodes[3])
    assert opened.contents.read(inodes[3], CHUNK, CHUNK) == noise(4 * CHUNK, 3)[CHUNK : 2 * CHUNK]
    overwrite(path, record.offset, noise(4 * CHUNK, 3)[:2])


def test_other_packs_are_rewritten_beside_an_unreadable_one(
    opened: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Read errors in one pack do not stop the collection of the others."""
    first = filled(opened, 4)
    opened.packs.seal(PackId(1))
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
        assert collect(opened) > 8 * CHUNK
    assert "stays in pack 1" in caplog.text
    assert opened.packs.numbers() == {PackId(1), PackId(3)}
    assert content_of(opened, first[3]) == noise(4 * CHUNK, 3)
    assert content_of(opened, second) == noise(4 * CHUNK, 4)


def test_a_pack_cut_short_is_kept(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A pack whose file was cut short is kept."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    path = pack_path(opened.packs, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: -2 * CHUNK])
    assert collect(opened) == 0
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert opened.packs.numbers() >= {PackId(1)}
    path.write_bytes(whole)
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)


def test_a_pack_with_damaged_tables_is_kept(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A pack is kept if a damaged segment table hides its chunks."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)
    path = pack_path(opened.packs, 1)
    overwrite(path, PAGE, b"X")
    collect(opened)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
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
    drain(opened.reclaimer.remove_dead())
    unlink(opened, 0)
    overwrite(pack_path(opened.packs, 1), record.offset, b"damage")
    opened.packs.seal(PackId(1))
    collector = collector_of(opened)
    segments = collector.segments(PackId(1))
    result = collector.copy(collector.portion(segments, 1 << 40), opened.writer())
    drain(opened.publish(result))
    assert collector_of(opened).retire(PackId(1))
    opened.commit()
    assert opened.chunks.find(extent.chunk) is None
    caplog.clear()
    collect(opened)


def test_damaged_tables_keep_a_pack_beside_a_chunk_that_was_passed_over(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A pack without a live chunk may still have that one, and its tables do not show it."""
    filled(opened, 1)
    opened.packs.seal(PackId(1))
    unlink(opened, 0)
    path = pack_path(opened.packs, 1)
    overwrite(path, PAGE, b"X")
    opened.reclaimer.passed.add(number_key(7777))
    assert collect(opened) == 0
    assert "pack 1 is kept" in caplog.text
    assert PackId(1) in opened.packs.numbers()
    overwrite(path, PAGE, b"M")
    assert collect(opened) > 0
    caplog.clear()


def test_chunks_that_stay_are_copied_once(
    opened: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a pack with dead chunks that cannot be removed the rest is freed, and they are no garbage.

    Otherwise each collection would copy them once more.
    """
    filled(opened, 4)
    unlink(opened, 0, 1, 2, 3)
    chunks = [ChunkId(number_of(key)) for key in opened.index.keys(Table.DEAD)]
    remove = opened.chunks.remove

    def fails(chunk: ChunkId) -> int:
        if chunk in chunks[5:7]:
            raise CorruptIndex("the row of its source is damaged")
        return remove(chunk)

    monkeypatch.setattr(opened.chunks, "remove", fails)
    collector = collector_of(opened)
    assert collect_with(opened, collector, LIVE_MIN_SMALL).pack_bytes > 13 * CHUNK
    assert opened.packs.numbers() == {PackId(2)}
    for again in (collector, collector_of(opened)):
        collect_with(opened, again, LIVE_MIN_SMALL)
        assert again.measured(LIVE_MIN_SMALL).packs == 0
        assert opened.packs.numbers() == {PackId(2)}
    assert caplog.text.count("stays: the row of its source is damaged") == 2
    caplog.clear()


def test_a_failed_rewrite_loses_nothing(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rewrite that found the disk full, all files read, and the next one succeeds."""
    inodes = filled(opened, 4)
    unlink(opened, 0, 1, 2)

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_at", full)
        with pytest.raises(OSError, match="space"):
            collect(opened)
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    assert collect(opened) > 0
    assert content_of(opened, inodes[3]) == noise(4 * CHUNK, 3)
    more = new_file(opened, b"more", noise(CHUNK, 99))
    ingest_all(opened)
    assert content_of(opened, more) == noise(CHUNK, 99)


def test_hints_go_in_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints about removed files are dropped a few rows at a time, and no others."""
    monkeypatch.setattr(collector_module, "SLICE", 2)
    for number in range(6):
        stored_file(opened, b"%d" % number, noise(SIZE_MIN, number))
    unlink(opened, 0, 1, 2, 5)
    assert len(list(collector_of(opened).drop_stale_hints())) > 2
    assert len(list(opened.index.pages(Table.COPY_HINTS))) == 2


def test_deleted_packs_are_forgotten(opened: Store) -> None:
    """A collector remembers packs that are there, and no others, however long it is in use."""
    collector = collector_of(opened)
    for number in range(3):
        stored_file(opened, b"%d" % number, noise(4 * CHUNK, number))
        stored_file(opened, b"kept%d" % number, noise(CHUNK, 9 + number))
        collector.measure(1.0)
        unlink(opened, number)
        assert collect_with(opened, collector, 1.0).packs == 1
    collector.measure(1.0)
    remembered = {*vars(collector)["_measured"], *vars(collector)["_unreadable"]}
    assert remembered <= opened.packs.numbers()
