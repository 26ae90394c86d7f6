"""Defragmentation of a store."""

import dataclasses
import errno
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from modelfs.cli.commands.optimize import optimize_and_defragment
from modelfs.errors import StoreFull
from modelfs.jobs.defrag import order as order_module
from modelfs.jobs.defrag import usage as usage_module
from modelfs.jobs.defrag.job import copy_portion
from modelfs.jobs.defrag.order import PackedChunks
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.defrag.usage import read_usage
from modelfs.jobs.drive import run
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import optimize as optimize_job
from modelfs.jobs.steps import Work
from modelfs.store.disk.descriptors import write_at
from modelfs.store.disk.space import Room, Space
from modelfs.store.index import index as index_module
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, PackId, Table, pair_of
from modelfs.store.packs import pack as pack_module
from modelfs.store.store import Store
from tests.support.crash.states import contents_of
from tests.support.run_jobs import collect, defragment, drain, optimize
from tests.support.scattered_files import CHUNKS, FILES, content, scatter
from tests.support.served_store import Failing
from tests.support.stores import CHUNK, Box, content_of, overwrite, pack_path, stored_file


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report much free space, however full the machine's disk is."""
    monkeypatch.setattr(Space, "room", lambda self: Room(1 << 40, 1 << 39, 1 << 20, 1 << 19))


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make portions small."""
    real = order_module.DefragPlan.portions
    monkeypatch.setattr(order_module.DefragPlan, "portions", lambda self: real(self, 32 * CHUNK))


def runs(store: Store, inodes: list[InodeNumber]) -> list[int]:
    measured = Defragmenter(store).measure()
    by_inode = dict(zip(measured.reads.inodes.tolist(), measured.runs.tolist(), strict=True))
    return [by_inode[inode] for inode in inodes]


def packs_of(store: Store) -> Counter[int]:
    return Counter(
        store.chunks.record(ChunkId(int.from_bytes(key, "big"))).pack
        for key, _ in store.index.pages(Table.CHUNKS)
    )


# -- reading the index


def read_in_order(store: Store) -> Iterator[tuple[int, int]]:
    """Yield inode and chunk of the read sequence of all files, by a plain walk."""

    def needed(chunk: ChunkId) -> list[ChunkId]:
        levels = [[chunk]]
        while levels[-1]:
            levels.append([s for each in levels[-1] for s in store.chunks.lineage.sources(each)])
        return [each for level in levels for each in level]

    seen = set()
    for key, value in store.index.pages(Table.EXTENTS):
        inode, start = pair_of(key)
        for chunk in needed(Extent.from_bytes(start, value).chunk):
            if (inode, chunk) not in seen and not store.chunks.record(chunk).is_lost:
                seen.add((inode, chunk))
                yield inode, chunk


@pytest.mark.parametrize("few", [1, 5, 1000])
def test_usage_is_complete(filled: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Every use of every chunk is returned in order, however many rows are read at a time."""
    for module in (index_module, usage_module):
        monkeypatch.setattr(module, "SCAN_PAGE", few)
    monkeypatch.setattr(usage_module, "BLOCK_ROWS", few)
    with Store(filled, read_only=True) as store:
        chunks, reads = read_usage(store.index)
        uses = zip(
            reads.inodes[reads.file].tolist(), chunks.number[reads.chunk].tolist(), strict=True
        )
        assert list(uses) == list(read_in_order(store))
        rows = zip(chunks.number, chunks.address, chunks.stored, strict=True)
        for chunk, address, stored in rows:
            record = store.chunks.record(ChunkId(int(chunk)))
            assert divmod(int(address), PackedChunks.PACK_STEP) == (record.pack, record.offset)
            assert stored == record.stored
        records = list(store.index.pages(Table.CHUNKS))
        lost = [value for _, value in records if value[0] == ChunkKind.LOST]
        dead = list(store.index.pages(Table.DEAD))
        assert len(chunks.number) == len(records) - len(lost) - len(dead)


def test_sources_are_read_with_their_dependants(opened: Store) -> None:
    """The sources of a file's casts are in its read sequence."""
    wide = np.random.default_rng(1).standard_normal((40, 1024)).astype(np.float32)
    first = stored_file(opened, b"wide", save({"w": wide}))
    second = stored_file(opened, b"narrow", save({"w": wide.astype(np.float16)}))
    optimize(opened)
    chunks, reads = read_usage(opened.index)
    used = {
        inode: set(chunks.number[reads.chunk[reads.inodes[reads.file] == inode]].tolist())
        for inode in (first, second)
    }
    derived = {pair_of(key)[0] for key, _ in opened.index.pages(Table.SOURCES)}
    assert derived & used[second]
    assert {pair_of(key)[1] for key, _ in opened.index.pages(Table.SOURCES)} <= used[second]
    uses = zip(reads.inodes[reads.file], chunks.number[reads.chunk], strict=True)
    assert list(uses) == list(read_in_order(opened))


# -- copying


def test_scattered_files_are_brought_together(box: Box) -> None:
    """After defragmentation each file has one run, the same content, and takes no more room."""
    inodes = scatter(box.store)
    stored = box.store.statistics().stored_bytes
    assert runs(box.store, inodes) == [CHUNKS] * FILES
    defragment(box.store)
    store = box.crash()
    assert runs(store, inodes) == [1] * FILES
    assert [content_of(store, inode) for inode in inodes] == [content(n) for n in range(FILES)]
    assert store.statistics().stored_bytes == stored
    assert store.packs.numbers() == {PackId(2)}, "the pack that became empty is gone"


def test_a_store_in_order_is_left_alone(opened: Store) -> None:
    """A second defragmentation copies nothing, nor does one after gc."""
    scatter(opened)
    optimize(opened)
    before = packs_of(opened)
    progress: list[tuple[int, int]] = []
    defragment(opened, lambda *done: progress.append(done))
    collect(opened)
    defragment(opened, lambda *done: progress.append(done))
    assert not progress
    assert packs_of(opened) == before


@pytest.mark.usefixtures("portions")
def test_optimize_defragments_last(opened: Store) -> None:
    """The optimize command ends with defragmentation, and its progress reaches the total."""
    inodes = scatter(opened)
    stored_file(opened, b"model", save({"zeros": np.zeros((100, 1024), np.float32)}))
    progress: list[tuple[int, int]] = []
    run(
        optimize_and_defragment(opened, Backlog(opened), lambda *done: progress.append(done)),
        opened,
    )
    assert runs(opened, inodes) == [1] * FILES
    assert progress[-1][0] == progress[-1][1]
    assert progress == sorted(progress)


@pytest.mark.usefixtures("portions")
def test_a_stopped_defragmentation_goes_on(box: Box) -> None:
    """Portions copied before a stop are kept, and the next run copies the rest."""
    inodes = scatter(box.store)

    def stop(done: int, _: int) -> None:
        if done > FILES * CHUNKS * CHUNK // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        defragment(box.store, stop)
    store = box.crash()
    halfway = runs(store, inodes)
    assert halfway[0] == 1
    assert halfway[-1] == CHUNKS
    sizes: list[int] = []
    defragment(store, lambda _, size: sizes.append(size))
    assert sizes[0] < 0.6 * FILES * CHUNKS * CHUNK
    assert [each for each in runs(store, inodes) if each > 1 + order_module.RUNS_MORE] == []
    assert contents_of(store) == {b"%d" % n: content(n) for n in range(FILES)}


@pytest.mark.usefixtures("portions")
def test_derived_chunks_keep_their_sources(opened: Store) -> None:
    """A file of casts is copied with its sources, and reads the same."""
    rng = np.random.default_rng(1)
    wide = [rng.standard_normal((8, 1024)).astype(np.float32) for _ in range(60)]
    for number in range(59, -1, -1):
        stored_file(opened, b"%d" % number, save({"w": wide[number]}))
    model = save({f"{number:02}": each.astype(np.float16) for number, each in enumerate(wide)})
    inode = stored_file(opened, b"model", model)
    run(optimize_job(opened, Backlog(opened)), opened)
    sources = list(opened.index.pages(Table.SOURCES))
    assert len(sources) > 60
    assert runs(opened, [inode])[0] > 60
    defragment(opened)
    assert runs(opened, [inode])[0] < 10
    assert content_of(opened, inode) == model
    assert list(opened.index.pages(Table.SOURCES)) == sources


# -- changes between plan and publish, and errors


def test_a_chunk_that_moved_meanwhile_stays_there(opened: Store) -> None:
    """A chunk that moved after it was copied is not moved back."""
    inodes = scatter(opened)
    (portion,) = Defragmenter(opened).plan().portions()
    job = copy_portion(opened, portion)
    work = next(job)
    assert isinstance(work, Work)
    copied, result = work.call()
    chunk = next(iter(copied))
    elsewhere = result.moved[chunk]
    moved = {**result.moved, chunk: result.moved[next(reversed(copied))]}
    with opened.index.change():
        opened.chunks.move(chunk, elsewhere)
    job.send((copied, dataclasses.replace(result, moved=moved)))
    run(job, opened)
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

    def full(*_: object) -> None:
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
