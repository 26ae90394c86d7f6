"""Whole files: the bytes that the kernel wrote are found, and believed when they are final."""

import mmap
import os
import time
from pathlib import Path

import pytest

from modelfs.errors import LostBytes
from modelfs.jobs.check.fsck import check
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from modelfs.store.disk.calls import run_here
from modelfs.store.files import whole_file
from modelfs.store.files.attributes import Change
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.crash.states import folder_in_memory
from tests.support.ingest_regions import apply, begin_region, run
from tests.support.kernel_writes import passed, passed_file, path_of, whole_of
from tests.support.lost_writeback import LostWriteBack
from tests.support.run_jobs import collect, ingest_all, ingest_file
from tests.support.stores import (
    WINDOW,
    Box,
    checked,
    content_of,
    durable,
    names_in,
    new_file,
    new_store,
    noise,
    overwrite,
    staged_of,
)
from tests.support.syscalls import fallocate
from tests.support.writer_process import writer_of

pytestmark = pytest.mark.usefixtures("windows")

DATA = noise(3 * WINDOW + 100)
NEVER = 1 << 60


def punch(fd: int, start: int, size: int) -> None:
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, start, size)


def staging_files(store: Store) -> set[str]:
    return names_in(store.staging.directory.path)


# -- writes of the kernel


def test_bytes_size_and_time_are_found(opened: Store) -> None:
    """Each look at a file finds all that the kernel has written by then."""
    inode = passed_file(opened, b"f")
    with passed(opened, inode) as fd:
        for size in (10, WINDOW + 10, len(DATA)):
            os.pwrite(fd, DATA[:size], 0)
            assert content_of(opened, inode) == DATA[:size]
            assert opened.staging.bytes >= size
            node = opened.contents.node(inode)
            assert (node.size, node.mtime_ns) == (size, os.fstat(fd).st_mtime_ns)
        os.pwrite(fd, b"new", 5)
        assert content_of(opened, inode) == DATA[:5] + b"new" + DATA[8:]


def test_holes_are_no_data(opened: Store) -> None:
    """A sparse file takes windows where it has data only."""
    inode = passed_file(opened, b"f")
    with passed(opened, inode) as fd:
        os.pwrite(fd, b"far", 1000 * WINDOW)
        os.ftruncate(fd, 2000 * WINDOW)
    assert set(staged_of(opened, inode).windows) == {0, 1000}
    assert opened.contents.node(inode).size == 2000 * WINDOW
    assert opened.contents.read(inode, 1000 * WINDOW - 2, 6) == b"\0\0far\0"
    assert opened.contents.allocated(opened.contents.node(inode)) <= WINDOW


def test_many_holes_are_not_looked_for(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some ranges of data, whole windows count as data, and read the same."""
    monkeypatch.setattr(whole_file, "RANGES_MAX", 2)
    inode = passed_file(opened, b"f")
    with passed(opened, inode) as fd:
        for number in range(10):
            os.pwrite(fd, b"x", number * 2 * WINDOW)
    staged = staged_of(opened, inode)
    assert len(staged.ranges()) == 10
    assert (staged.ranges().size > 10 * 4096, staged.size) == (True, 18 * WINDOW + 1)
    expected = bytearray(18 * WINDOW + 1)
    expected[:: 2 * WINDOW] = b"x" * 10
    assert content_of(opened, inode) == expected
    ingest_all(opened)
    assert content_of(opened, inode) == expected


def test_a_time_that_a_program_sets(opened: Store) -> None:
    """utimensat(2) holds until the next write, also if the disk keeps times less exactly."""
    inode = passed_file(opened, b"f", b"content")
    opened.attributes.set(inode, Change(mtime_ns=123_456_789))
    assert opened.contents.node(inode).mtime_ns == 123_456_789
    with passed(opened, inode) as fd:
        assert opened.contents.node(inode).mtime_ns == 123_456_789
        os.pwrite(fd, b"more", 0)
        assert opened.contents.node(inode).mtime_ns == os.fstat(fd).st_mtime_ns
    ingest_all(opened)
    assert opened.contents.node(inode).mtime_ns > 123_456_789


# -- ingest


def test_a_closed_file_is_ingested(opened: Store) -> None:
    """All windows are dropped together, and the next commit deletes the file."""
    inode = passed_file(opened, b"f", DATA)
    assert staging_files(opened) == {whole_of(opened, inode).name}
    ingest_all(opened)
    assert opened.staging.find(inode) is None
    assert (content_of(opened, inode), staging_files(opened)) == (DATA, set())
    assert (opened.staging.bytes, opened.inodes.get(inode).staging_rows) == (0, 0)


def test_an_empty_file_is_ingested(opened: Store) -> None:
    """A file without a write leaves nothing."""
    inode = passed_file(opened, b"f")
    ingest_all(opened)
    assert (opened.staging.find(inode), staging_files(opened)) == (None, set())


def test_a_file_that_may_be_written_is_not_ingested(opened: Store) -> None:
    """An open file and a mapping keep it staged, for all that may ask."""
    inode = passed_file(opened, b"f", DATA)
    with passed(opened, inode):
        ingest_all(opened)
        assert staged_of(opened, inode).staged_bytes == len(DATA)
    whole = whole_of(opened, inode)
    with path_of(opened, whole).open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        ingest_all(opened)
        pages[:5] = b"later"
        assert content_of(opened, inode) == b"later" + DATA[5:]
        ingest_file(opened, inode)
        assert opened.staging.find(inode) is not None
    ingest_all(opened)
    assert opened.staging.find(inode) is None
    assert content_of(opened, inode) == b"later" + DATA[5:]


def test_a_mapping_that_ends_before_the_question(opened: Store) -> None:
    """A write between the last look and the proof is found."""
    inode = passed_file(opened, b"f", DATA)
    assert content_of(opened, inode) == DATA
    with path_of(opened, whole_of(opened, inode)).open("r+b") as file:
        file.write(b"unseen")
    assert opened.staging.wholes.prove_final(staged_of(opened, inode))
    assert content_of(opened, inode) == b"unseen" + DATA[6:]


@pytest.mark.parametrize("step", ["before", "between", "after"])
def test_a_write_during_a_pass_wins(opened: Store, step: str) -> None:
    """A file that is opened and written during a pass stays staged, with the new bytes."""
    inode = passed_file(opened, b"f", DATA)
    assert opened.staging.wholes.prove_final(staged_of(opened, inode))

    def write() -> None:
        with passed(opened, inode) as fd:
            os.pwrite(fd, b"new", WINDOW)

    file_pass, region = begin_region(opened, inode)
    if step == "before":
        write()
    run(opened, region)
    if step == "between":
        write()
    apply(opened, region)
    if step == "after":
        write()
    while (region := Applier(opened).next_region(file_pass)) is not None:  # type: ignore[assignment]
        run(opened, region)
        apply(opened, region)
    Applier(opened).end_pass(file_pass)
    expected = DATA[:WINDOW] + b"new" + DATA[WINDOW + 3 :]
    assert opened.staging.find(inode) is not None
    assert content_of(opened, inode) == expected
    ingest_all(opened)
    assert opened.staging.find(inode) is None
    assert content_of(opened, inode) == expected


# -- crashes


def test_a_crash_leaves_what_was_flushed_and_what_the_disk_has(box: Box) -> None:
    """After a flush the file is found by its rows, with all that the kernel wrote since."""
    inode = passed_file(box.store, b"f", DATA[:10])
    durable(box.store, inode)
    with passed(box.store, inode) as fd:
        os.pwrite(fd, DATA, 0)
        store = box.crash()
        assert content_of(store, inode) == DATA
        ingest_all(store)
        assert store.staging.find(inode) is not None  # the writer has outlived the daemon
        os.pwrite(fd, b"zombie", 0)
        assert content_of(store, inode) == b"zombie" + DATA[6:]
    ingest_all(store)
    assert store.staging.find(inode) is None
    assert content_of(box.crash(), inode) == b"zombie" + DATA[6:]


def test_a_crash_before_the_first_flush(box: Box) -> None:
    """A file that no flush has recorded is empty, and its staging file is deleted."""
    inode = passed_file(box.store, b"f", DATA)
    box.store.commit()
    store = box.crash()
    assert (content_of(store, inode), staging_files(store)) == (b"", set())


def test_a_size_without_data_is_durable(box: Box) -> None:
    """A file that was only made longer has its size after a crash."""
    inode = passed_file(box.store, b"f")
    box.store.writes.truncate(inode, 5 * WINDOW)
    durable(box.store, inode)
    store = box.crash()
    assert content_of(store, inode) == bytes(5 * WINDOW)


@pytest.mark.parametrize("opened_meanwhile", [True, False])
@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("size", [0, 10, WINDOW, 2 * WINDOW + 1, 5 * WINDOW])
def test_truncation(box: Box, size: int, *, flushed: bool, opened_meanwhile: bool) -> None:
    """A cut hides the bytes behind it for ever, from readers of the mount and after crashes."""
    inode = passed_file(box.store, b"f", DATA)
    durable(box.store, inode)
    cut = DATA[:size].ljust(size, b"\0")
    longer = cut.ljust(6 * WINDOW, b"\0")

    def truncate() -> None:
        box.store.writes.truncate(inode, size)
        assert content_of(box.store, inode) == cut
        box.store.writes.truncate(inode, 6 * WINDOW)

    if opened_meanwhile:
        with passed(box.store, inode) as fd:
            truncate()
            assert os.pread(fd, 7 * WINDOW, 0) == longer
    else:
        truncate()
    assert content_of(box.store, inode) == longer
    if flushed:
        durable(box.store, inode)
        store = box.crash()
        assert content_of(store, inode) == longer
    else:
        store = box.crash()
        assert content_of(store, inode) in (DATA, longer)
    before = content_of(store, inode)
    ingest_all(store)
    assert content_of(store, inode) == before


@pytest.mark.parametrize("rewritten", [True, False])
def test_a_cut_to_nothing_during_a_flush(box: Box, *, rewritten: bool) -> None:
    """No row names the file that the cut has ended."""
    store = box.store
    inode = passed_file(store, b"f", DATA)
    flush = store.flusher.flush(inode)
    next(flush)()
    store.writes.truncate(inode, 0)
    expected = b""
    if rewritten:
        store.writes.write(inode, 0, expected := b"new")
    run_here(flush)
    store.commit()
    assert content_of(store, inode) == expected
    durable(store, inode)
    assert content_of(box.crash(), inode) == expected


def test_a_copy_that_becomes_the_content_and_is_cut(box: Box) -> None:
    """Until the next commit the last one may name it, so it is not deleted at once."""
    store = box.store
    inode = passed_file(store, b"f", DATA)
    durable(store, inode)
    with passed(store, inode, os.O_RDONLY):
        ingest_file(store, inode)
        store.contents.staged(inode)
        with passed(store, inode):
            pass
    store.writes.truncate(inode, 0)
    assert content_of(box.crash(), inode) in (DATA, b"")


def test_a_mapping_on_tmpfs() -> None:
    """A store to a page that was read before changes no time there, and is found all the same."""
    with folder_in_memory() as memory, checked(new_store(memory)) as box:
        inode = passed_file(box.store, b"f")
        with passed(box.store, inode) as fd:
            os.ftruncate(fd, 3 * WINDOW)
            time.sleep(0.05)  # until the times are old
            with mmap.mmap(fd, 3 * WINDOW) as pages:
                assert pages[WINDOW] == 0
                box.store.staging.find(inode)
                pages[WINDOW : WINDOW + 4] = b"data"
        ingest_all(box.store)
        assert box.store.contents.read(inode, WINDOW, 4) == b"data"


def test_a_cut_to_nothing_leaves_the_old_file_to_a_crash(box: Box) -> None:
    """O_TRUNC of a closed file destroys nothing before the next flush."""
    inode = passed_file(box.store, b"f", DATA)
    durable(box.store, inode)
    box.store.writes.truncate(inode, 0)
    box.store.staging.begin_whole(box.store.contents.staged(inode))
    with passed(box.store, inode) as fd:
        os.write(fd, b"new")
    assert content_of(box.store, inode) == b"new"
    assert content_of(box.crash(), inode) == DATA
    box.store.writes.truncate(inode, 0)
    box.store.staging.begin_whole(box.store.contents.staged(inode))
    with passed(box.store, inode) as fd:
        os.write(fd, b"newer")
    durable(box.store, inode)
    assert len(staging_files(box.store)) == 1
    assert content_of(box.crash(), inode) == b"newer"


def test_an_empty_file_that_is_cut_keeps_its_whole_file(opened: Store) -> None:
    """A cut of nothing changes nothing, and the next write has its place."""
    inode = passed_file(opened, b"f")
    opened.writes.truncate(inode, 0)
    opened.commit()
    opened.writes.write(inode, 0, b"content")
    assert content_of(opened, inode) == b"content"


def test_a_cut_file_is_no_finding(box: Box) -> None:
    """Fsck takes a whole file that is shorter than its rows for a cut before a crash."""
    inode = passed_file(box.store, b"f", DATA)
    durable(box.store, inode)
    box.store.writes.truncate(inode, 10)
    store = box.crash()  # checks
    assert content_of(store, inode) == DATA[:10]


# -- between sessions


def test_a_closed_store_has_checksums(box: Box) -> None:
    """After an orderly end the rows are exact: other bytes on the disk are lost ones."""
    inode = passed_file(box.store, b"f", DATA)
    store = box.reopen()
    assert not whole_of(store, inode).live
    assert content_of(store, inode) == DATA
    path = path_of(store, whole_of(store, inode))
    store.close()
    overwrite(path, WINDOW + 5, bytes([DATA[WINDOW + 5] ^ 1]))
    box.store = store = Store(box.path)
    assert store.contents.read(inode, 0, WINDOW) == DATA[:WINDOW]
    with pytest.raises(LostBytes):
        store.contents.read(inode, WINDOW, 10)
    store.writes.truncate(inode, 0)
    durable(store, inode)


@pytest.mark.parametrize("divided", [False, True])
def test_a_reader_of_a_closed_store_compares_each_window(box: Box, *, divided: bool) -> None:
    """All windows have one file: one checksum is not that of the others."""
    inode = passed_file(box.store, b"f", DATA)
    durable(box.store, inode)
    if divided:
        assert box.store.staging.divide(staged_of(box.store, inode))
    box.store.close()
    (name,) = names_in(box.path / "staging")
    overwrite(box.path / "staging" / name, WINDOW + 5, bytes([DATA[WINDOW + 5] ^ 1]))
    with Store(box.path, read_only=True) as reader:
        assert reader.contents.read(inode, 0, WINDOW) == DATA[:WINDOW]
        with pytest.raises(LostBytes):
            reader.contents.read(inode, WINDOW, 10)
    overwrite(box.path / "staging" / name, WINDOW + 5, DATA[WINDOW + 5 : WINDOW + 6])
    box.store = Store(box.path)


def test_a_file_that_was_empty_at_its_flush(box: Box) -> None:
    """Its row has no ranges, and after a crash it has all bytes that the kernel wrote since."""
    inode = passed_file(box.store, b"f")
    durable(box.store, inode)
    with passed(box.store, inode) as fd:
        os.pwrite(fd, DATA, 0)
        os.fsync(fd)
    assert content_of(box.crash(), inode) == DATA


def test_a_file_that_was_cut_by_the_disk(box: Box) -> None:
    """After an orderly end a shorter file is damage: reads fail, and fsck names it."""
    inode = passed_file(box.store, b"f", DATA)
    store = box.reopen()
    path = path_of(store, whole_of(store, inode))
    store.close()
    os.truncate(path, WINDOW)
    with Store(box.path, read_only=True) as reader:
        assert {finding.invariant for finding in check(reader, data=True)} >= {"window"}
    box.store = store = Store(box.path)
    assert store.contents.node(inode).size == len(DATA)
    with pytest.raises(LostBytes):
        store.contents.read(inode, 2 * WINDOW, 10)
    store.writes.truncate(inode, 0)
    durable(store, inode)


def test_a_mapped_file_has_no_checksum(box: Box) -> None:
    """A program that outlives the daemon may still change its file."""
    inode = passed_file(box.store, b"f", DATA)
    with path_of(box.store, whole_of(box.store, inode)).open("r+b") as file:
        store = box.reopen()
        file.write(b"later")
        file.flush()
        assert whole_of(store, inode).live
        assert content_of(store, inode) == b"later" + DATA[5:]


def test_a_reader_beside_the_daemon(folder: Path) -> None:
    """Another process reads a recorded whole file as it is."""
    inode = InodeNumber(2)
    with writer_of(folder) as writer, Store(folder, read_only=True) as reader:
        writer("import os; from tests.support.kernel_writes import *")
        writer("passed_file(store, b'f', noise(12)); store.flush(2); store.commit()")
        assert content_of(reader, inode) == noise(12)
        writer("fd = os.open(path_of(store, whole_of(store, 2)), os.O_RDWR)")
        writer(f"os.write(fd, noise({len(DATA)}))")
        assert content_of(reader, inode) == DATA
        writer("os.close(fd)")


# -- lost write-back


def test_a_failed_write_back_loses_the_file(opened: Store) -> None:
    """No flush succeeds, ingest leaves the file alone, and reads fail, until it is cut off."""
    kernel = LostWriteBack(NEVER)
    with kernel.below():
        inode = passed_file(opened, b"f", DATA)
        opened.staging.find(inode)
        kernel.lose()
        with pytest.raises(LostBytes):
            opened.flush(inode)
        with pytest.raises(OSError, match="cannot store"):
            ingest_all(opened)
        with pytest.raises(LostBytes):
            opened.contents.read(inode, 0, 10)
        opened.writes.truncate(inode, 0)
        durable(opened, inode)
        assert content_of(opened, inode) == b""


# -- copies


def test_a_file_that_is_read_stays_as_a_copy(opened: Store) -> None:
    """The kernel's file stays until the last program has closed it."""
    inode = passed_file(opened, b"f", DATA)
    with passed(opened, inode, os.O_RDONLY) as fd:
        ingest_all(opened)
        assert opened.staging.find(inode) is None
        opened.staging.wholes.copies.shrink(0)
        assert staging_files(opened) == {whole_of(opened, inode).name}
        assert os.pread(fd, len(DATA), 0) == DATA
        assert opened.inodes.get(inode).staging_rows == 0
    opened.staging.wholes.copies.shrink(0)
    opened.staging.wholes.empty_trash()
    assert (staging_files(opened), opened.staging.wholes.copies.find(inode)) == (set(), None)


def test_a_mapping_keeps_a_copy(opened: Store) -> None:
    """A program that has mapped the file for reading sees later writes."""
    inode = passed_file(opened, b"f", DATA)
    with path_of(opened, whole_of(opened, inode)).open("rb") as file:
        ingest_all(opened)
        opened.staging.wholes.copies.shrink(0)
        opened.writes.write(inode, 5, b"edited")
        assert os.pread(file.fileno(), 6, 5) == b"edited"
        assert content_of(opened, inode) == DATA[:5] + b"edited" + DATA[11:]
    ingest_all(opened)
    assert content_of(opened, inode) == DATA[:5] + b"edited" + DATA[11:]
    assert staging_files(opened) == set()


def test_an_unused_copy_is_dropped_by_a_change(opened: Store) -> None:
    """A change of a file without readers takes the usual way."""
    inode = passed_file(opened, b"f", DATA)
    with passed(opened, inode, os.O_RDONLY):
        ingest_all(opened)
    opened.writes.write(inode, 0, b"new")
    assert staged_of(opened, inode).whole is None
    assert content_of(opened, inode) == b"new" + DATA[3:]


@pytest.mark.parametrize("crashes", ["before a flush", "after a flush", "after ingest"])
def test_a_copy_that_is_written(box: Box, crashes: str) -> None:
    """A copy becomes the content again, over a map that no crash loses before that is durable."""
    store = box.store
    inode = passed_file(store, b"f", DATA)
    expected = DATA[:WINDOW] + b"edited" + DATA[WINDOW + 6 :]
    with passed(store, inode, os.O_RDONLY) as reader:
        ingest_all(store)
        whole = whole_of(store, inode)
        assert store.contents.staged(inode).whole is whole
        with passed(store, inode) as fd:
            os.pwrite(fd, b"edited", WINDOW)
        assert os.pread(reader, 6, WINDOW) == b"edited"
        assert content_of(store, inode) == expected
        if crashes != "before a flush":
            durable(store, inode)
        if crashes == "after ingest":
            ingest_all(store)
        assert content_of(box.crash(), inode) in ([expected] if "after" in crashes else [DATA])


def test_a_copy_that_is_cut_and_extended(box: Box) -> None:
    """Extents below a cut copy do not come back."""
    store = box.store
    inode = passed_file(store, b"f", DATA)
    with passed(store, inode, os.O_RDONLY) as reader:
        ingest_all(store)
        store.writes.truncate(inode, 10)
        store.writes.truncate(inode, len(DATA))
        expected = DATA[:10].ljust(len(DATA), b"\0")
        assert os.pread(reader, len(DATA) + 1, 0) == expected
        assert content_of(store, inode) == expected
        durable(store, inode)
    store = box.crash()
    assert content_of(store, inode) == expected
    ingest_all(store)
    assert content_of(store, inode) == expected


@pytest.mark.parametrize("crashes", [True, False])
def test_holes_that_a_program_makes(box: Box, *, crashes: bool) -> None:
    """madvise(2) makes holes in a mapped file: they are zeros, also over extents."""
    store = box.store
    inode = passed_file(store, b"f", DATA)
    with passed(store, inode, os.O_RDONLY):
        ingest_all(store)
        store.contents.staged(inode)
        with passed(store, inode) as fd:
            punch(fd, WINDOW, WINDOW)
        expected = DATA[:WINDOW] + bytes(WINDOW) + DATA[2 * WINDOW :]
        assert content_of(store, inode) == expected
        durable(store, inode)
        if crashes:
            store = box.crash()
            assert content_of(store, inode) == expected
        ingest_all(store)
        assert content_of(store, inode) == expected
    ingest_all(store)
    store.staging.wholes.copies.shrink(0)
    assert content_of(box.reopen(), inode) == expected


def test_a_hole_below_extents_of_a_pass_that_was_given_up(box: Box) -> None:
    """The next pass removes them."""
    store = box.store
    inode = passed_file(store, b"f", DATA)
    assert store.staging.wholes.prove_final(staged_of(store, inode))
    _, region = begin_region(store, inode)
    run(store, region)
    apply(store, region)
    with passed(store, inode) as fd:
        punch(fd, 0, WINDOW)
    expected = bytes(WINDOW) + DATA[WINDOW:]
    assert content_of(store, inode) == expected
    ingest_all(store)
    assert store.staging.find(inode) is None
    assert content_of(store, inode) == expected


def test_a_file_that_is_gone(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """A missing staging file is an error of reads, and is healed by O_TRUNC."""
    inode = passed_file(box.store, b"f", DATA)
    durable(box.store, inode)
    path_of(box.store, whole_of(box.store, inode)).unlink()
    box.store.abandon()
    store = box.store = Store(box.path)
    with pytest.raises(FileNotFoundError):
        store.contents.read(inode, 0, 10)
    store.writes.truncate(inode, 0)
    store.writes.write(inode, 0, b"new")
    durable(store, inode)
    assert content_of(store, inode) == b"new"
    caplog.clear()


def test_removed_files_leave_nothing(opened: Store) -> None:
    """A whole file and a copy are deleted with their inodes."""
    first = passed_file(opened, b"a", DATA)
    second = passed_file(opened, b"b", DATA)
    durable(opened, first)
    opened.writes.truncate(first, 0)
    opened.writes.write(first, 0, b"another file")
    with passed(opened, second, os.O_RDONLY):
        ingest_file(opened, second)
        for name in (b"a", b"b"):
            opened.namespace.unlink(InodeNumber(1), name)
        collect(opened)
        opened.commit()
        assert staging_files(opened) == set()


def test_a_present_write_goes_into_the_whole_file(opened: Store) -> None:
    """A mount without passthrough goes on with whole files of one that has it."""
    inode = passed_file(opened, b"f", DATA)
    opened.writes.write(inode, 10 * WINDOW, b"far")
    opened.writes.write(inode, 0, b"near")
    expected = (b"near" + DATA[4:]).ljust(10 * WINDOW, b"\0") + b"far"
    assert content_of(opened, inode) == expected
    assert len(staging_files(opened)) == 1
    ingest_all(opened)
    assert (content_of(opened, inode), staging_files(opened)) == (expected, set())


def test_no_descriptor_is_kept_of_a_durable_file(opened: Store) -> None:
    """A flushed file that no program has open keeps no descriptor, or thousands of them would."""
    inodes = [passed_file(opened, b"%d" % number, b"content") for number in range(5)]
    opened.staging.kept_max = 2
    assert opened.staging.crowded()
    for inode in inodes:
        durable(opened, inode)
    assert not opened.staging.crowded()
    with passed(opened, inodes[0]):
        assert whole_of(opened, inodes[0]) in opened.staging._kept
    assert new_file(opened, b"other")


def test_a_cut_during_a_region_is_no_failure_of_the_disk(opened: Store) -> None:
    """A region that lacks bytes, because the file was truncated meanwhile, is not done."""
    inode = passed_file(opened, b"f", DATA)
    assert opened.staging.wholes.prove_final(staged_of(opened, inode))
    _, region = begin_region(opened, inode)
    opened.writes.truncate(inode, 10)
    done, _ = Worker(opened).work([region], opened.writer())
    assert done == []
    ingest_all(opened)
    assert content_of(opened, inode) == DATA[:10]


def test_a_disk_that_cuts_a_file_has_failed(opened: Store) -> None:
    """Without a truncation by this process, a file that is too short is an error."""
    inode = passed_file(opened, b"f", DATA)
    assert opened.staging.wholes.prove_final(staged_of(opened, inode))
    _, region = begin_region(opened, inode)
    os.truncate(path_of(opened, whole_of(opened, inode)), 10)
    with pytest.raises(OSError, match="cut short"):
        Worker(opened).work([region], opened.writer())
    opened.writes.truncate(inode, 10)
