"""Flushes: frozen state, sync and record, with writes, cuts, ingest and crashes in between."""

import errno
import itertools
import os
from collections.abc import Callable

import pytest

from modelfs.errors import LostBytes
from modelfs.store.disk.calls import run_here
from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.files import flush as flush_module
from modelfs.store.files.writes import write_part
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import (
    CHUNK,
    WINDOW,
    Box,
    content_of,
    durable,
    new_file,
    noise,
    stored_file,
)

pytestmark = pytest.mark.usefixtures("windows")


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


def test_fsync_keeps_everything(box: Box) -> None:
    """Flushed and committed bytes survive a crash, also those of the last write."""
    data = noise(3 * WINDOW)
    inode = new_file(box.store, b"f", data)
    durable(box.store, inode)
    box.store.writes.write(inode, 5, b"five")
    durable(box.store, inode)
    store = box.crash()
    assert content_of(store, inode) == data[:5] + b"five" + data[9:]


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


@pytest.mark.parametrize("floor", [0, 10, WINDOW, WINDOW + 10])
@pytest.mark.parametrize("durable_before", [False, True])
def test_cuts_and_writes_do_not_repeat_a_flush(
    box: Box, floor: int, *, durable_before: bool
) -> None:
    """A flush has the frozen content up to the smallest size since, and no later write."""
    data = noise(3 * WINDOW)
    inode = new_file(box.store, b"f", data)
    if durable_before:
        durable(box.store, inode)
        box.store.writes.write(inode, 1, data[1:2])
    flush = box.store.flusher.flush(inode)
    sync = next(flush)
    box.store.writes.truncate(inode, 2 * WINDOW)
    box.store.writes.truncate(inode, floor)
    box.store.writes.write(inode, floor, b"after the cut")
    sync()
    assert list(flush) == []
    box.store.commit()
    assert content_of(box.store, inode) == data[:floor] + b"after the cut"
    store = box.crash()
    assert content_of(store, inode) == data[:floor]
    store.writes.truncate(inode, 3 * WINDOW)
    assert content_of(store, inode) == data[:floor].ljust(3 * WINDOW, b"\0")


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
    (path,) = opened.staging.directory.path.iterdir()
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        opened.flush(inode)
    path.with_name("elsewhere").rename(path)


def fails(error: int) -> Callable[..., None]:
    """Return a function that raises an error of the disk."""

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_lost_bytes_fail_every_later_flush(
    opened: Store, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """After bytes were lost no flush succeeds, until they are cut off."""
    inode = new_file(opened, b"f", noise(100))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails(error))
        with pytest.raises(LostBytes, match=os.strerror(error)):
            opened.flush(inode)
    with pytest.raises(LostBytes, match="were lost"):
        opened.flush(inode)
    opened.writes.write(inode, WINDOW, b"another window")
    with pytest.raises(LostBytes, match=os.strerror(error)) as caught:
        opened.flush(inode)
    assert caught.value.errno == error
    opened.writes.truncate(inode, 0)
    opened.writes.write(inode, 0, b"new")
    opened.flush(inode)
    assert content_of(opened, inode) == b"new"


def test_an_error_that_loses_no_bytes_is_tried_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that found no free descriptor fails, and the next one succeeds."""
    inode = new_file(box.store, b"f", noise(100))
    with monkeypatch.context() as patch:
        patch.setattr(Descriptors, "open", fails(errno.EMFILE))
        with pytest.raises(OSError, match="open files"):
            box.store.flush(inode)
    durable(box.store, inode)
    assert content_of(box.crash(), inode) == noise(100)


def test_of_many_files_all_but_the_failed_are_flushed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file's error does not keep others from becoming durable, and it is raised."""
    inodes = [new_file(box.store, b"%d" % number, noise(100, number)) for number in range(3)]
    real = os.fdatasync
    count = itertools.count()

    def first_fails(fd: int) -> None:
        if next(count) == 0:
            raise OSError(errno.EIO, "first")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", first_fails)
        with pytest.raises(LostBytes, match="100 bytes written to /0 were lost"):
            run_here(box.store.flusher.flush_all())
    box.store.commit()
    store = box.crash()
    with pytest.raises(LostBytes):
        content_of(store, inodes[0])
    assert [content_of(store, inode) for inode in inodes[1:]] == [noise(100, 1), noise(100, 2)]
    store.writes.truncate(inodes[0], 0)


def test_nothing_is_recorded_before_it_is_synced(box: Box) -> None:
    """A crash after the freeze and before the sync leaves the file as its last flush did."""
    inode = new_file(box.store, b"f", b"old")
    durable(box.store, inode)
    box.store.writes.write(inode, WINDOW, b"new")
    flush = box.store.flusher.flush(inode)
    next(flush)
    assert not box.store.index.dirty
    flush.close()
    assert content_of(box.crash(), inode) == b"old"


def test_a_clean_file_is_not_synced(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush of a file without changes since the last one makes no call."""
    inode = new_file(opened, b"f", b"x")
    opened.flush(inode)
    assert list(opened.flusher.flush(inode)) == []
    assert list(opened.flusher.flush(stored_file(opened, b"g", b"y"))) == []


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_trim_in_slices_hides_the_rest_of_the_map(
    box: Box, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A crash between two slices of a trim shows no byte behind the cut."""
    monkeypatch.setattr(flush_module, "TRIM_SLICE", size)
    inode = stored_file(box.store, b"f", noise(5 * CHUNK))
    box.store.writes.truncate(inode, 10)
    box.store.writes.truncate(inode, 5 * CHUNK)
    box.store.flush(inode)
    trim = box.store.flusher.trim(inode)
    next(trim, None)
    box.store.commit()
    trim.close()  # type: ignore[attr-defined]
    store = box.crash()
    assert content_of(store, inode) == noise(5 * CHUNK)[:10].ljust(5 * CHUNK, b"\0")
    drain(store.flusher.trim(inode))
    assert content_of(store, inode) == noise(5 * CHUNK)[:10].ljust(5 * CHUNK, b"\0")
