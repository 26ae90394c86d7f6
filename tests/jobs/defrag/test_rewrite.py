"""Rewriting of scattered files: changes between plan and publish, and errors."""

import dataclasses
import errno
import logging

import pytest

from modelfs.errors import StoreFull
from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.disk.descriptors import write_at
from modelfs.store.disk.space import Room, Space
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ROOT, ChunkId, PackId
from modelfs.store.packs import pack as pack_module
from modelfs.store.store import Store
from tests.support.run_jobs import defragment, drain
from tests.support.scattered_files import CHUNKS, FILES, content, packs_of, runs, scatter
from tests.support.served_store import Failing
from tests.support.stores import content_of, overwrite, pack_path


def test_a_chunk_that_moved_meanwhile_stays_there(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that moved after it was copied is not moved back."""
    inodes = scatter(opened)
    copy = Defragmenter.copy
    moved_to: dict[ChunkId, Chunk] = {}

    def copied_and_moved(
        self: Defragmenter, portion: DefragPlan, writer: ChunkWriter
    ) -> tuple[dict[ChunkId, Chunk], WriteResult]:
        copied, result = copy(self, portion, writer)
        chunk = next(iter(copied))
        moved_to[chunk] = result.moved[chunk]
        with opened.index.change():
            opened.chunks.move(chunk, moved_to[chunk])
        moved = {**result.moved, chunk: result.moved[next(reversed(copied))]}
        return copied, dataclasses.replace(result, moved=moved)

    with monkeypatch.context() as patch:
        patch.setattr(Defragmenter, "copy", copied_and_moved)
        defragment(opened)
    ((chunk, elsewhere),) = moved_to.items()
    assert opened.chunks.record(chunk) == elsewhere
    assert [content_of(opened, inode) for inode in inodes] == [content(n) for n in range(FILES)]


def test_chunks_that_are_gone_are_left_out(opened: Store) -> None:
    """Chunks of a plan that are dead or removed by now are not copied."""
    scatter(opened)
    plan = Defragmenter(opened).plan()
    for number in range(5):
        drain(opened.orphans.remove(opened.namespace.unlink(ROOT, b"%d" % number)))
    for _ in range(2):
        copied, _ = Defragmenter(opened).copy(plan, opened.writer())
        assert len(copied) == 5 * CHUNKS
        drain(opened.reclaimer.remove_dead())
    opened.roll_back_writer()


def test_a_damaged_chunk_stays_where_it_is(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged chunk is not copied, and so gets no new checksum; the others are."""
    inodes = scatter(opened)
    chunk = next(opened.maps.within(inodes[0], 0, 1)).chunk
    record = opened.chunks.record(chunk)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([content(0)[0] ^ 1]))
    defragment(opened)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert opened.chunks.record(chunk) == record
    assert packs_of(opened) == {1: 1, 2: FILES * CHUNKS - 1}
    overwrite(path, record.offset, content(0)[:1])
    assert content_of(opened, inodes[0]) == content(0)


def test_a_full_disk_loses_nothing(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion that finds no room changes nothing, and the next run copies it."""
    inodes = scatter(opened)
    before = packs_of(opened)

    def full(*_: object, **__: object) -> None:
        raise StoreFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(opened.space, "spend", full)
        with pytest.raises(StoreFull):
            defragment(opened)
    assert packs_of(opened) == before
    assert opened.packs.numbers() == {PackId(1)}
    assert [content_of(opened, inode) for inode in inodes] == [content(n) for n in range(FILES)]
    defragment(opened)
    assert runs(opened, inodes) == [1] * FILES


@pytest.mark.usefixtures("portions")
def test_a_failing_disk_loses_nothing(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions before an I/O error are kept, and the failed one changes nothing."""
    inodes = scatter(opened)
    failing = Failing(write_at, OSError(errno.EIO, "broken"), 7)
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_at", failing)
        with pytest.raises(OSError, match="broken"):
            defragment(opened)
    assert failing.calls == 7
    assert [content_of(opened, inode) for inode in inodes] == [content(n) for n in range(FILES)]
    opened.commit()
    defragment(opened)
    assert runs(opened, inodes) == [1] * FILES


def test_the_last_tenth_of_the_disk_stays_free(
    opened: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a nearly full disk nothing is copied; that is a warning, and no error."""
    scatter(opened)
    before = packs_of(opened)
    size = Defragmenter(opened).plan().bytes
    least = 1000 * size // 10 + size
    monkeypatch.setattr(Space, "room", lambda self: Room(1000 * size, least, 9, 9))
    defragment(opened)
    assert packs_of(opened) == before
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    monkeypatch.setattr(Space, "room", lambda self: Room(1000 * size, least + 1, 9, 9))
    defragment(opened)
    assert packs_of(opened) != before
