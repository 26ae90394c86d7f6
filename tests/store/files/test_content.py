"""The content of files: staged ranges over chunks; flushes, truncations and crashes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelfs.errors import CorruptChunk, CorruptIndex, FileTooLarge
from modelfs.store.disk.calls import run_here
from modelfs.store.files import staging
from modelfs.store.files.content import FileRun, overlay
from modelfs.store.files.writes import write_part
from modelfs.store.index.records import SIZE_MAX, Extent
from modelfs.store.index.tables import ChunkId, InodeNumber, Table, number_key, pair_key
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_all, ingest_file
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    model_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    small_windows,
    stored_file,
)

WINDOW = 2 * CHUNK


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make windows small."""
    small_windows(monkeypatch, WINDOW)


def durable(store: Store, inode: InodeNumber) -> None:
    """Do the same as fsync(2)."""
    store.flush(inode)
    store.commit()


# -- reading and writing


def test_a_write_is_read_at_once(opened: Store) -> None:
    """Staged bytes are read as written, across windows and with holes between."""
    inode = new_file(opened, b"f")
    opened.writes.write(inode, WINDOW - 5, noise(10))
    opened.writes.write(inode, 3 * WINDOW, b"end")
    content = bytes(WINDOW - 5) + noise(10)
    assert content_of(opened, inode) == content.ljust(3 * WINDOW, b"\0") + b"end"


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


@pytest.mark.parametrize("wrong", [Extent(0, ChunkId(1), 1, CHUNK), Extent(0, ChunkId(1), 0, 5000)])
def test_a_damaged_extent_reads_no_other_chunk(opened: Store, wrong: Extent) -> None:
    """An extent past the end of its chunk is an error: another file's bytes lie there."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    stored_file(opened, b"g", noise(CHUNK, 1))
    key = pair_key(inode, 0)
    right = opened.index.get(Table.EXTENTS, key)
    assert right is not None
    with opened.index.change():
        opened.index.put(Table.EXTENTS, key, wrong.to_bytes())
    with pytest.raises(CorruptIndex, match="past the end of chunk 1"):
        content_of(opened, inode)
    with opened.index.change():
        opened.index.put(Table.EXTENTS, key, right)
    assert content_of(opened, inode) == noise(CHUNK)


def test_huge_offsets_cost_nothing(opened: Store) -> None:
    """A byte at the end of the largest file takes one window and is read back."""
    inode = new_file(opened, b"f")
    opened.writes.write(inode, SIZE_MAX - 1, b"x")
    assert opened.contents.node(inode).size == SIZE_MAX
    assert opened.contents.read(inode, SIZE_MAX - 2, 10) == b"\0x"
    ingest_file(opened, inode)
    assert opened.contents.read(inode, SIZE_MAX - 2, 10) == b"\0x"
    opened.writes.truncate(inode, 0)


def test_files_have_a_largest_size(opened: Store) -> None:
    """Writes and truncations past the kernel's limit are refused and change nothing."""
    inode = new_file(opened, b"f", b"x")
    with pytest.raises(FileTooLarge):
        opened.writes.write(inode, SIZE_MAX, b"y")
    with pytest.raises(FileTooLarge):
        opened.writes.truncate(inode, SIZE_MAX + 1)
    assert content_of(opened, inode) == b"x"


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


def map_of(store: Store) -> Callable[[InodeNumber, int, int], Iterator[tuple[Extent, ChunkId]]]:
    """Return a map of files in which a chunk's number stands for its record."""
    return lambda inode, start, stop: (
        (extent, extent.chunk) for extent in store.maps.within(inode, start, stop)
    )


def test_the_overlay_of_a_map_by_staged_ranges(opened: Store) -> None:
    """Staged ranges lie over extents, extents count up to a cut, and holes fill the rest."""
    inode = stored_file(opened, b"f", noise(3 * CHUNK))
    opened.writes.truncate(inode, 2 * CHUNK)
    opened.writes.truncate(inode, 9000)
    opened.writes.write(inode, 4000, b"x" * 10)
    staged = opened.contents.snapshot(inode)
    first, second = list(opened.maps.within(inode, 0, 2 * CHUNK))
    mapped = map_of(opened)
    assert list(overlay(inode, staged, 0, 9000, mapped)) == [
        (0, 4000, (first.part(0, 4000), first.chunk)),
        (4000, 4010, staged.windows[0]),
        (4010, CHUNK, (first.part(4010, CHUNK), first.chunk)),
        (CHUNK, 2 * CHUNK, (second, second.chunk)),
        (2 * CHUNK, 9000, None),
    ]
    assert list(overlay(inode, staged, 4005, 4020, mapped)) == [
        (4005, 4010, staged.windows[0]),
        (4010, 4020, (first.part(4010, 4020), first.chunk)),
    ]


def test_the_overlay_of_a_map_alone(opened: Store) -> None:
    """A file without staged content is its extents and the holes between them."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    opened.writes.write(inode, 5 * CHUNK, noise(100))
    ingest_file(opened, inode)
    first, last = list(opened.maps.within(inode, 0, 6 * CHUNK))
    mapped = map_of(opened)
    assert list(overlay(inode, None, 0, 6 * CHUNK, mapped)) == [
        (0, CHUNK, (first, first.chunk)),
        (CHUNK, 5 * CHUNK, None),
        (5 * CHUNK, 5 * CHUNK + 100, (last, last.chunk)),
        (5 * CHUNK + 100, 6 * CHUNK, None),
    ]
    assert list(overlay(inode, None, 7 * CHUNK, 7 * CHUNK, mapped)) == []


# -- truncation


@pytest.mark.parametrize("size", [0, 1, CHUNK, WINDOW, WINDOW + 1])
def test_truncated_bytes_do_not_come_back(opened: Store, size: int) -> None:
    """A file made shorter and then longer has zeros behind the cut, ingested or not."""
    data = noise(4 * CHUNK)
    for inode in (new_file(opened, b"staged", data), stored_file(opened, b"stored", data)):
        opened.writes.truncate(inode, size)
        opened.writes.truncate(inode, len(data))
        assert content_of(opened, inode) == data[:size].ljust(len(data), b"\0")
        ingest_file(opened, inode)
        assert content_of(opened, inode) == data[:size].ljust(len(data), b"\0")


def test_a_cut_window_is_flushed_empty(box: Box) -> None:
    """Cut bytes that were since flushed as zeros are zeros after a crash."""
    inode = new_file(box.store, b"f")
    box.store.writes.write(inode, 50, noise(50))
    durable(box.store, inode)
    box.store.writes.truncate(inode, 20)
    box.store.writes.truncate(inode, 100)
    durable(box.store, inode)
    store = box.crash()
    assert content_of(store, inode) == bytes(100)


def test_unflushed_truncation_is_whole_after_a_crash(box: Box) -> None:
    """A truncation that ingest recorded holds when the file becomes longer again."""
    data = noise(3 * WINDOW)
    inode = new_file(box.store, b"f", data)
    durable(box.store, inode)
    box.store.writes.truncate(inode, 10)
    drain(box.store.flusher.trim(inode))
    box.store.commit()
    store = box.crash()
    size = store.contents.node(inode).size
    store.writes.truncate(inode, len(data))
    assert content_of(store, inode) == data[:size].ljust(len(data), b"\0")


# -- flushing


def test_fsync_keeps_everything(box: Box) -> None:
    """Flushed and committed bytes survive a crash, also those of the last write."""
    data = noise(3 * WINDOW)
    inode = new_file(box.store, b"f", data)
    durable(box.store, inode)
    box.store.writes.write(inode, 5, b"five")
    durable(box.store, inode)
    store = box.crash()
    assert content_of(store, inode) == data[:5] + b"five" + data[9:]


def test_closing_a_store_keeps_everything(box: Box) -> None:
    """An orderly close flushes all unflushed content."""
    inode = new_file(box.store, b"f", b"content")
    assert content_of(box.reopen(), inode) == b"content"


def test_a_crash_reverts_to_the_last_flush(box: Box) -> None:
    """A crash reverts a file to its last flush."""
    inode = new_file(box.store, b"f", b"flushed")
    durable(box.store, inode)
    box.store.writes.write(inode, WINDOW, b"not flushed")
    store = box.crash()
    assert content_of(store, inode) == b"flushed"


def test_a_write_begun_before_a_flush_is_flushed_by_the_next(box: Box) -> None:
    """A write that ends after the freeze of a flush leaves the file dirty."""
    inode = new_file(box.store, b"f", b"old")
    data = b"new"
    parts = box.store.writes.begin(inode, 0, memoryview(data))
    box.store.flush(inode)
    write_part(parts[0])
    box.store.writes.end(inode, parts, len(data))
    durable(box.store, inode)
    store = box.crash()
    assert content_of(store, inode) == b"new"


def test_a_window_begun_while_flushing_does_not_keep_the_old_row(box: Box) -> None:
    """After a window began again during a flush, no row names its deleted file."""
    inode = new_file(box.store, b"f", b"first")
    durable(box.store, inode)
    box.store.writes.truncate(inode, 0)
    flush = box.store.flusher.flush(inode)
    sync = next(flush)
    box.store.writes.write(inode, 0, b"second")
    sync()
    run_here(flush)
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) in (b"", b"second")


def test_a_file_cut_while_flushed_is_whole_after_a_crash(box: Box) -> None:
    """A flush during a truncation makes the state before or after it durable."""
    data = noise(3 * WINDOW)
    inode = new_file(box.store, b"f", data)
    flush = box.store.flusher.flush(inode)
    sync = next(flush)
    box.store.writes.truncate(inode, WINDOW)
    sync()
    run_here(flush)
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) in (data, data[:WINDOW])


def test_an_older_flush_does_not_undo_a_newer_one(box: Box) -> None:
    """Of two flushes of a file, the one that began first and ended last changes nothing."""
    store = box.store
    inode = new_file(store, b"f", b"old")
    older = store.flusher.flush(inode)
    sync = next(older)
    store.writes.write(inode, 0, b"newer, and longer")
    durable(store, inode)
    sync()
    assert list(older) == []
    assert not store.index.dirty
    store.commit()
    assert content_of(box.crash(), inode) == b"newer, and longer"


def test_a_flush_survives_an_ingest(opened: Store) -> None:
    """Syncing windows that were ingested meanwhile, and whose files are gone, is no error."""
    inode = new_file(opened, b"f", noise(CHUNK))
    flush = opened.flusher.flush(inode)
    sync = next(flush)
    ingest_all(opened)
    sync()
    assert list(flush) == []


def test_a_missing_staging_file_fails_the_flush(opened: Store) -> None:
    """A window whose file is missing for no reason is not recorded as durable."""
    inode = new_file(opened, b"f", noise(CHUNK))
    opened.staging.close()
    (path,) = opened.staging.folder.iterdir()
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        opened.flush(inode)
    path.with_name("elsewhere").rename(path)


def test_a_folder_that_could_not_be_synced_is_synced_again(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error, names of new staging files do not count as durable."""
    synced: list[Path] = []

    def fails(folder: Path) -> None:
        raise OSError(5, os.strerror(5))

    inode = new_file(opened, b"f", b"x")
    monkeypatch.setattr(staging, "sync_folder", fails)
    with pytest.raises(OSError, match="error"):
        opened.staging.sync(inode, [])
    monkeypatch.setattr(staging, "sync_folder", synced.append)
    opened.flush(inode)
    opened.staging.sync(inode, [])
    assert synced == [opened.staging.folder]


# -- damage


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


def test_a_damaged_record_fails_its_bytes_only(opened: Store) -> None:
    """A lost chunk record fails the reads that need it, and no other reads."""
    data = noise(3 * CHUNK)
    inode = stored_file(opened, b"f", data)
    _, middle, _ = opened.maps.within(inode, 0, len(data))
    key = number_key(middle.chunk)
    record = opened.index.get(Table.CHUNKS, key)
    assert record is not None
    with opened.index.change():
        opened.index.put(Table.CHUNKS, key, b"junk")
    for _ in range(2):
        assert opened.contents.read(inode, 0, CHUNK) == data[:CHUNK]
        assert opened.contents.read(inode, 2 * CHUNK, CHUNK) == data[2 * CHUNK :]
        with pytest.raises(CorruptIndex):
            opened.contents.read(inode, 0, 2 * CHUNK)
    with opened.index.change():
        opened.index.put(Table.CHUNKS, key, record)
    assert content_of(opened, inode) == data


def test_planning_ahead_is_bounded(opened: Store) -> None:
    """Read-ahead of a file cut into tiny chunks is short; of any other file it is not."""
    small = stored_file(opened, b"small", model_of(*(noise(200, n) for n in range(1000))))
    assert 0 < len(opened.contents.plan_ahead(small, 20_000, 1 << 20)) < 200
    large = stored_file(opened, b"large", noise(30 * CHUNK))
    assert sum(run.size for run in opened.contents.plan_ahead(large, 10, 1 << 20)) == (
        30 * CHUNK - 10
    )
