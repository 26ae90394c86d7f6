"""A step goes into the index in slices: whatever comes between two of them, nothing is lost."""

import pytest

from modelfs.jobs.ingest import apply as intake
from modelfs.jobs.ingest.worker import Step
from modelfs.store.index.tables import ROOT, InodeNumber, PackId, Table
from modelfs.store.store import Store
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
SLICES = 8  # of one step, at least
DATA = noise(2 * WINDOW)


@pytest.fixture(autouse=True)
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every extent, chunk and tensor be a slice."""
    small_windows(monkeypatch, WINDOW)
    for name in ("EXTENTS_SLICE", "CHUNKS_SLICE", "ROWS_SLICE", "TRIM_SLICE"):
        monkeypatch.setattr(intake, name, 1)


def stepped(store: Store, inode: InodeNumber) -> Step:
    """Begin a pass, and do all of its first step but what changes the map."""
    walk = store.intake.begin_pass(inode, complete=True)
    step = store.intake.begin_step(walk)
    assert step is not None
    writer = store.writer()
    assert store.ingest.run(step, writer)
    written = writer.finish()
    while not store.intake.publish(written):
        pass
    assert len(step.extents) >= SLICES
    return step


def apply(store: Store, step: Step, count: int) -> None:
    """Put some slices of a step into the map, not the last."""
    for _ in range(count):
        assert not store.intake.finish_step(step)


def finish(store: Store, step: Step) -> None:
    while not store.intake.finish_step(step):
        pass


@pytest.mark.parametrize("count", range(SLICES))
def test_a_crash_between_slices_keeps_what_was_flushed(box: Box, count: int) -> None:
    """Wherever a commit comes between slices, a file is what its flush made it."""
    inode = new_file(box.store, b"f", DATA)
    box.store.flush(inode)
    apply(box.store, stepped(box.store, inode), count)
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) == DATA
    store.ingest_all()
    assert content_of(store, inode) == DATA


@pytest.mark.parametrize("count", range(SLICES))
def test_a_crash_between_slices_shows_nothing_by_halves(box: Box, count: int) -> None:
    """A new file that was never flushed is empty after it, also when it is made longer then."""
    inode = new_file(box.store, b"f", DATA)
    apply(box.store, stepped(box.store, inode), count)
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) == b""
    store.contents.truncate(inode, len(DATA))
    assert content_of(store, inode) == bytes(len(DATA))


@pytest.mark.parametrize("count", range(1, SLICES))
def test_a_crash_between_slices_brings_back_no_cut_off_bytes(box: Box, count: int) -> None:
    """Durable windows that a truncation dropped do not lie above the new content's extents."""
    store = box.store
    inode = new_file(store, b"f", noise(4 * WINDOW, 1))
    store.flush(inode)
    store.commit()
    store.contents.truncate(inode, 0)
    store.contents.write(inode, 2 * WINDOW, DATA)
    apply(store, stepped(store, inode), count)
    store.commit()
    store = box.crash()
    assert content_of(store, inode) == b""
    store.contents.truncate(inode, 4 * WINDOW)
    assert content_of(store, inode) == bytes(4 * WINDOW)


def test_a_write_between_slices_wins(opened: Store) -> None:
    """Bytes written over an extent that is in the map lie above it."""
    inode = new_file(opened, b"f", DATA)
    step = stepped(opened, inode)
    apply(opened, step, 3)
    opened.contents.write(inode, 5, b"new")
    opened.contents.write(inode, 6 * CHUNK, b"new")
    finish(opened, step)
    wanted = bytearray(DATA)
    wanted[5:8] = wanted[6 * CHUNK : 6 * CHUNK + 3] = b"new"
    assert content_of(opened, inode) == wanted
    opened.ingest_all()
    assert content_of(opened, inode) == wanted


def test_a_truncation_between_slices_wins(opened: Store) -> None:
    """What was cut off behind extents that are in the map does not come back."""
    inode = new_file(opened, b"f", DATA)
    step = stepped(opened, inode)
    apply(opened, step, 3)
    opened.contents.truncate(inode, CHUNK + 10)
    opened.contents.truncate(inode, len(DATA))
    finish(opened, step)
    wanted = DATA[: CHUNK + 10].ljust(len(DATA), b"\0")
    assert content_of(opened, inode) == wanted
    opened.ingest_all()
    assert content_of(opened, inode) == wanted


def test_a_flush_between_slices_is_kept(box: Box) -> None:
    """What an fsync made durable between two slices is there after a crash before the next."""
    store = box.store
    inode = new_file(store, b"f", DATA)
    step = stepped(store, inode)
    apply(store, step, 3)
    store.contents.write(inode, 5, b"new")
    store.flush(inode)
    apply(store, step, 2)
    store.commit()
    assert content_of(box.crash(), inode) == DATA[:5] + b"new" + DATA[8:]


def test_a_removal_between_slices_ends_the_step(opened: Store) -> None:
    """A file that is gone before the last slice leaves nothing."""
    inode = new_file(opened, b"f", DATA)
    step = stepped(opened, inode)
    apply(opened, step, 3)
    opened.namespace.unlink(ROOT, b"f")
    while not opened.orphans.reap(inode):
        pass
    assert opened.intake.finish_step(step)
    assert step.walk.done
    assert list(opened.index.pages(Table.EXTENTS)) == []


def test_a_crash_between_slices_of_new_chunks(box: Box) -> None:
    """Chunks of which some are known are sound, and no number is given to two."""
    store = box.store
    inode = new_file(store, b"f", DATA)
    store.flush(inode)
    walk = store.intake.begin_pass(inode, complete=True)
    step = store.intake.begin_step(walk)
    assert step is not None
    writer = store.writer()
    assert store.ingest.run(step, writer)
    assert not store.intake.publish(writer.finish())
    store.commit()
    store = box.crash()
    assert len(list(store.index.pages(Table.CHUNKS))) == 1
    store.ingest_all()
    assert content_of(store, inode) == DATA
    stop = pack_path(store.packs, 1).stat().st_size
    numbers = [each.chunk for each in store.packs.entries(PackId(1), stop)]
    assert len(numbers) == len(set(numbers)) == 2 * SLICES - 1


@pytest.mark.parametrize("count", [0, 3, 7])
def test_a_file_cut_anew_reads_the_same_between_slices(box: Box, count: int) -> None:
    """While extents replace others, every byte stays where it is."""
    data = model_of(*(noise(1000, number) for number in range(20)))
    inode = stored_file(box.store, b"f", data)
    box.store.contents.write(inode, len(data) - 1, b"x")
    box.store.flush(inode)
    walk = box.store.intake.begin_pass(inode, complete=True)
    step = box.store.intake.begin_step(walk)
    assert step is not None
    writer = box.store.writer()
    assert box.store.ingest.run(step, writer)
    while not box.store.intake.publish(writer.written):
        pass
    for _ in range(count):
        box.store.intake.finish_step(step)
    box.store.commit()
    assert content_of(box.crash(), inode) == data[:-1] + b"x"
