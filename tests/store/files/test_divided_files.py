"""Divided files: windows that share a file, and give their room back one by one."""

import os
from pathlib import Path
from random import Random

import pytest

from modelfs.errors import BytesMoved, CorruptIndex
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.run import repair
from modelfs.reader.connection import PLANS_MAX, Connection, Plan
from modelfs.store.disk.sparse import data_ranges
from modelfs.store.files import parallel
from modelfs.store.files.content import Contents
from modelfs.store.files.read_runs import ReadRun
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.file_maps import EDGES, ByteModel
from tests.support.ingest_regions import apply, begin_region, run
from tests.support.kernel_writes import passed, passed_file, path_of, whole_of
from tests.support.run_jobs import collect, drain, ingest_all, ingest_file
from tests.support.stores import (
    CHUNK,
    WINDOW,
    Box,
    content_of,
    durable,
    names_in,
    new_file,
    new_store,
    noise,
    pending_files,
    staged_of,
)
from tests.support.writer_process import WriterProcess, writer_of

pytestmark = pytest.mark.usefixtures("windows")

DATA = noise(5 * WINDOW + 100)


def divided_file(store: Store, name: bytes, data: bytes) -> InodeNumber:
    """Create a file that the kernel has written, and divide it."""
    inode = passed_file(store, name, data)
    durable(store, inode)
    assert store.staging.divide(staged_of(store, inode))
    return inode


def pass_file(writer: WriterProcess, size: int) -> None:
    """Let the writer make inode 2, its `inode`, with noise that the kernel has written."""
    writer("from tests.support.stores import *; import pytest")
    writer("from tests.support.ingest_regions import *; patch = pytest.MonkeyPatch()")
    writer("from tests.support.kernel_writes import *; small_windows(patch, WINDOW)")
    writer(f"inode = passed_file(store, b'f', noise({size})); durable(store, inode)")


def ingest_region(store: Store, inode: InodeNumber) -> None:
    """Put the next region into chunks, and nothing else."""
    _, region = begin_region(store, inode)
    run(store, region)
    apply(store, region)


def data_in(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as file:
        return [*data_ranges(file.fileno())]


def test_the_room_of_a_region_comes_back_with_a_commit(box: Box) -> None:
    """Each region that is in chunks becomes a hole of the file, and the last one deletes it."""
    inode = divided_file(box.store, b"f", DATA)
    (path,) = box.store.staging.directory.path.iterdir()
    whole = data_in(path)
    ingest_region(box.store, inode)
    assert content_of(box.store, inode) == DATA
    assert data_in(path) == whole
    box.store.commit()
    assert data_in(path)[0][0] == 2 * WINDOW
    assert content_of(box.store, inode) == DATA
    assert content_of(box.reopen(), inode) == DATA
    assert content_of(box.crash(), inode) == DATA
    assert staged_of(box.store, inode).staged_bytes == len(DATA) - 2 * WINDOW
    ingest_all(box.store)
    assert names_in(path.parent) == set()
    assert content_of(box.store, inode) == DATA


def test_a_crash_before_the_commit_leaves_all_bytes_staged(box: Box) -> None:
    """Nothing is given back for a change that may not be durable."""
    inode = divided_file(box.store, b"f", DATA)
    box.store.commit()
    ingest_region(box.store, inode)
    store = box.crash()
    assert staged_of(store, inode).staged_bytes == len(DATA)
    assert content_of(store, inode) == DATA


def test_a_crash_before_the_hole(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next session makes the holes that a crash has prevented."""
    inode = divided_file(box.store, b"f", DATA)
    (path,) = box.store.staging.directory.path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(type(box.store.staging.wholes.punches), "run", lambda *_: None)
        ingest_region(box.store, inode)
        box.store.commit()
    assert data_in(path)[0][0] == 0
    store = box.crash()
    new_file(store, b"another")
    store.commit()
    assert data_in(path)[0][0] == 2 * WINDOW
    assert content_of(store, inode) == DATA


def test_without_room_a_file_is_divided(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over a whole file that has no room for all of its chunks divides it."""
    inode = passed_file(opened, b"f", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(type(opened.space), "working_bytes", len(DATA))
        ingest_all(opened)
    assert opened.staging.find(inode) is None
    assert content_of(opened, inode) == DATA
    assert names_in(opened.staging.directory.path) == set()


def test_a_file_that_is_used_stays_whole(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that have the file open read it without a request, so it may get no hole."""
    inode = passed_file(opened, b"f", DATA)
    with monkeypatch.context() as patch, passed(opened, inode, os.O_RDONLY) as fd:
        patch.setattr(type(opened.space), "working_bytes", len(DATA))
        ingest_file(opened, inode)
        assert staged_of(opened, inode).whole is not None
        assert os.pread(fd, len(DATA), 0) == DATA
    assert pending_files(opened) == [inode]
    ingest_all(opened)
    assert content_of(opened, inode) == DATA


def test_a_file_that_changed_since_its_flush_stays_whole(opened: Store) -> None:
    """Only durable bytes get the rows of a divided file."""
    inode = passed_file(opened, b"f", DATA)
    durable(opened, inode)
    opened.writes.truncate(inode, 7)
    assert not opened.staging.divide(staged_of(opened, inode))
    assert content_of(opened, inode) == DATA[:7]


def test_a_read_that_was_planned_before(opened: Store) -> None:
    """A read of a window that became a hole meanwhile is planned again."""
    inode = divided_file(opened, b"f", DATA)
    runs = opened.contents.plan(inode, WINDOW - 10, 20)
    rest = opened.contents.plan(inode, 3 * WINDOW, 20)
    ingest_region(opened, inode)
    opened.commit()
    with pytest.raises(BytesMoved):
        opened.contents.gather(runs)
    with pytest.raises(BytesMoved):
        opened.contents.fill(runs, memoryview(bytearray(20)))
    assert opened.contents.gather(rest) == DATA[3 * WINDOW : 3 * WINDOW + 20]
    assert opened.contents.read(inode, WINDOW - 10, 20) == DATA[WINDOW - 10 : WINDOW + 10]


def test_a_reader_beside_the_daemon(folder: Path) -> None:
    """Another process sees that a window became a hole since its commit."""
    inode = InodeNumber(2)
    with writer_of(folder) as writer, Store(folder, read_only=True) as reader:
        pass_file(writer, len(DATA))
        writer("assert store.staging.divide(staged_of(store, inode)); store.commit()")
        assert content_of(reader, inode) == DATA
        runs = reader.contents.plan(inode, 0, 20)
        rest = reader.contents.plan(inode, 4 * WINDOW, 20)
        writer("_, region = begin_region(store, inode); run(store, region); apply(store, region)")
        assert reader.contents.gather(runs) == DATA[:20]
        writer("store.commit()")
        with pytest.raises(FileNotFoundError):
            reader.contents.gather(runs)
        assert reader.contents.gather(rest) == DATA[4 * WINDOW : 4 * WINDOW + 20]
        assert content_of(reader, inode) == DATA


def test_removed_files_leave_nothing(opened: Store) -> None:
    """The file goes with its inode, and with a truncation to nothing."""
    divided_file(opened, b"a", DATA)
    second = divided_file(opened, b"b", DATA)
    ingest_region(opened, second)
    opened.namespace.unlink(InodeNumber(1), b"a")
    collect(opened)
    opened.writes.truncate(second, 0)
    durable(opened, second)
    assert names_in(opened.staging.directory.path) == set()
    assert content_of(opened, second) == b""


def test_a_hole_at_the_end(box: Box) -> None:
    """The size of a file is that of its record, and not that of the divided file."""
    inode = passed_file(box.store, b"f", DATA)
    with passed(box.store, inode) as fd:
        os.truncate(path_of(box.store, whole_of(box.store, inode)), 20 * WINDOW)
        os.fsync(fd)
    durable(box.store, inode)
    assert box.store.staging.divide(staged_of(box.store, inode))
    box.store.commit()
    expected = DATA.ljust(20 * WINDOW, b"\0")
    assert content_of(box.crash(), inode) == expected
    ingest_all(box.store)
    assert content_of(box.store, inode) == expected


@pytest.mark.parametrize("seed", range(8))
def test_random_changes(box: Box, seed: int) -> None:
    """Whatever happens to it, a divided file has the bytes that were written."""
    random, model = Random(seed), ByteModel()
    data = noise(random.randrange(1, 6 * WINDOW), seed)
    model.write(0, data)
    inode = divided_file(box.store, b"f", data)
    for _ in range(60):
        store, offset, other = box.store, random.choice(EDGES), random.choice(EDGES)
        match random.randrange(10):
            case 0 | 1:
                new = noise(random.choice((1, 700, 2 * CHUNK)), offset + seed)
                store.writes.write(inode, offset, new)
                model.write(offset, new)
            case 2:
                store.writes.truncate(inode, offset)
                model.truncate(offset)
            case 3:
                drain(store.edits.punch(inode, offset, offset + other))
                model.punch(offset, offset + other)
            case 4 | 5:
                if (staged := store.staging.find(inode)) is not None and staged.windows:
                    ingest_region(store, inode)
            case 6:
                ingest_file(store, inode)
            case 7:
                durable(store, inode)
                box.crash()
            case 8:
                store.commit()
            case _:
                box.reopen()
        assert content_of(box.store, inode) == model.content


def test_a_store_of_a_divided_file_is_sound(tmp_path: Path) -> None:
    """Fsck beside the rows of a divided file, and repair of it, find nothing."""
    path = new_store(tmp_path)
    with Store(path) as store:
        inode = divided_file(store, b"f", DATA)
        ingest_region(store, inode)
        store.commit()
        assert check(store, data=True) == []
    report = repair(path, data=True)
    assert (report.found, report.actions) == ([], [])
    with Store(path) as store:
        assert content_of(store, inode) == DATA


def test_truncations_around_a_flush(box: Box) -> None:
    """Windows that the second one cuts off stay until their own flush: they have one file."""
    store = box.store
    inode = divided_file(store, b"f", DATA)
    store.commit()
    store.writes.truncate(inode, 3 * WINDOW)
    staged = staged_of(store, inode)
    frozen = staged.freeze()
    store.writes.truncate(inode, WINDOW)
    with store.index.change():
        store.staging.drop_superseded(staged, frozen.superseded)
    assert {window.number for window in staged.superseded} == {1, 2}
    durable(store, inode)
    assert staged.superseded == []
    assert content_of(box.crash(), inode) == DATA[:WINDOW]
    ingest_all(box.store)
    assert names_in(box.store.staging.directory.path) == set()


def test_a_reader_of_the_file_before_its_division(folder: Path) -> None:
    """In its commit the file is whole, without holes; the daemon divides it before it is opened."""
    inode = InodeNumber(2)
    with writer_of(folder) as writer, Store(folder, read_only=True) as reader:
        pass_file(writer, len(DATA))
        with reader.index.rows.pinned():
            writer("assert store.staging.divide(staged_of(store, inode)); store.commit()")
            writer("_, region = begin_region(store, inode); run(store, region)")
            writer("apply(store, region); store.commit()")
            with pytest.raises(CorruptIndex, match="in chunks by now"):
                reader.contents.plan(inode, 0, 20)
        assert content_of(reader, inode) == DATA


def test_a_read_while_a_divided_file_goes_into_chunks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each plan is late: a region of the file goes into chunks before its bytes are read."""
    inode, data = InodeNumber(2), noise(12 * WINDOW)
    gather = parallel.gather
    with writer_of(folder) as writer:
        pass_file(writer, len(data))
        writer("assert store.staging.divide(staged_of(store, inode)); store.commit()")
        late: list[int] = []

        def late_gather(contents: Contents, runs: list[ReadRun]) -> bytes:
            if len(late) < 6:
                writer("_, region = begin_region(store, inode); run(store, region)")
                writer("apply(store, region); store.commit()")
            late.append(len(runs))
            return gather(contents, runs)

        monkeypatch.setattr(parallel, "gather", late_gather)
        connection = Connection(folder, trust=True)
        plan: Plan = lambda store: store.contents.plan(inode, 0, len(data))  # noqa: E731
        assert connection.read(plan) == data
        assert len(late) > PLANS_MAX
        connection.close()
