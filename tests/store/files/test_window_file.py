"""The states of staged bytes: written, flushing, durable, lost."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelfs.errors import LostBytes
from modelfs.store.disk.descriptors import Descriptors, read_at, write_at
from modelfs.store.disk.directory import Directory
from modelfs.store.files import window_file
from modelfs.store.files.window_file import WindowFile
from tests.support.lost_writeback import LostWriteBack

NEVER = 1 << 60


@pytest.fixture
def kernel() -> Iterator[LostWriteBack]:
    kernel = LostWriteBack(NEVER)
    with kernel.below():
        yield kernel


@pytest.fixture
def kept() -> dict[WindowFile, None]:
    return {}


@pytest.fixture
def window(tmp_path: Path, kernel: LostWriteBack, kept: dict[WindowFile, None]) -> WindowFile:
    return WindowFile(Descriptors(Directory(tmp_path), os.O_RDWR), "7-0-1", kept)


def write(window: WindowFile, start: int, data: bytes) -> None:
    file = window.descriptor(create=True)
    failures = window.begin_write(file)
    write_at(file, start, [data])
    window.end_write(start, start + len(data), start + len(data), failures)


def read(window: WindowFile, start: int, size: int) -> bytes:
    file = window.descriptor()
    data = read_at(file, start, size)
    window.check(file, start, start + size)
    return data


def test_bytes_are_durable_after_a_sync(
    window: WindowFile, kernel: LostWriteBack, kept: dict[WindowFile, None]
) -> None:
    """After a sync a failed write-back has nothing to lose, and no descriptor is kept."""
    write(window, 0, b"written")
    assert list(kept) == [window]
    window.sync()
    assert not kept
    kernel.lose()
    assert not kernel.struck
    assert read(window, 0, 7) == b"written"


def test_lost_bytes_are_not_read(window: WindowFile, kernel: LostWriteBack) -> None:
    """A read of bytes that the kernel has dropped fails in every thread, and every time."""
    write(window, 0, b"written")
    kernel.lose()
    for _ in range(3):
        with pytest.raises(LostBytes):
            read(window, 3, 2)
    assert list(window.lost()) == [(0, 7)]


def test_durable_bytes_beside_lost_ones_are_read(window: WindowFile, kernel: LostWriteBack) -> None:
    """A failure costs only bytes that were not durable."""
    write(window, 0, b"durable")
    window.sync()
    write(window, 5, b"lost")
    kernel.lose()
    assert read(window, 0, 5) == b"durab"
    with pytest.raises(LostBytes):
        read(window, 4, 2)


def test_a_failure_is_found_once_and_remembered(
    window: WindowFile, kernel: LostWriteBack, kept: dict[WindowFile, None]
) -> None:
    """The bytes stay lost, and their errno stays known, until they are written again."""
    write(window, 0, b"written")
    kernel.error = errno.ENOSPC
    kernel.lose()
    for _ in range(2):
        window.sync()
        assert window.error == errno.ENOSPC
        assert list(window.lost()) == [(0, 7)]
    assert not kept
    with pytest.raises(LostBytes):
        read(window, 0, 7)
    write(window, 0, b"written")
    window.sync()
    assert window.error == 0
    assert not window.lost()


def test_a_read_may_find_the_failure_first(window: WindowFile, kernel: LostWriteBack) -> None:
    """A failure that a read was the first to find keeps its errno for the next sync."""
    write(window, 0, b"written")
    kernel.error = errno.ENOSPC
    kernel.lose()
    with pytest.raises(LostBytes):
        read(window, 0, 7)
    window.sync()
    assert window.error == errno.ENOSPC


def test_threads_that_wait_for_a_sync_know_its_failure(
    window: WindowFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed fdatasync is the error of each thread that syncs meanwhile."""
    write(window, 0, b"written")
    begun, go = threading.Event(), threading.Event()

    def fails(fd: int) -> None:
        begun.set()
        assert go.wait(10)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync() -> int:
        window.sync()
        return window.error

    monkeypatch.setattr(os, "fdatasync", fails)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sync)
        assert begun.wait(10)
        second = pool.submit(sync)
        go.set()
        assert [first.result(), second.result()] == [errno.ENOSPC] * 2


def test_no_write_waits_for_the_answer_to_a_read(
    window: WindowFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a read asks the kernel, which may take an fdatasync, writes go on."""
    write(window, 0, b"written")
    asked, go = threading.Event(), threading.Event()

    def waits(fd: int) -> int:
        asked.set()
        assert go.wait(10)
        return errno.EIO

    monkeypatch.setattr(window_file, "take_error", waits)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, window, 0, 7)
        assert asked.wait(10)
        write(window, 2, b"xyz")
        assert not reading.done()
        go.set()
        with pytest.raises(LostBytes):
            reading.result()
    assert list(window.lost()) == [(0, 7)]


def test_writing_again_heals(window: WindowFile, kernel: LostWriteBack) -> None:
    """Lost bytes that are written again are read again; the others stay lost."""
    write(window, 0, b"written")
    kernel.lose()
    window.sync()
    write(window, 2, b"xyz")
    assert read(window, 2, 3) == b"xyz"
    window.sync()
    assert window.error == errno.EIO
    assert list(window.lost()) == [(0, 2), (5, 7)]


def test_a_cut_forgets_lost_bytes(window: WindowFile, kernel: LostWriteBack) -> None:
    """Bytes that a truncation cuts off are not lost any more."""
    write(window, 0, b"written")
    kernel.lose()
    window.sync()
    window.cut(3, NEVER)
    assert list(window.lost()) == [(0, 3)]


def test_a_failure_during_a_write_counts_for_it(window: WindowFile, kernel: LostWriteBack) -> None:
    """Bytes of a write in progress while a failure was found are lost, too."""
    file = window.descriptor(create=True)
    write(window, 0, b"first")
    failures = window.begin_write(file)
    write_at(file, 5, [b"second"])
    kernel.lose()
    with pytest.raises(LostBytes):
        read(window, 0, 5)
    window.end_write(5, 11, 11, failures)
    assert list(window.lost()) == [(0, 11)]


def test_a_failed_fdatasync_loses_bytes(
    window: WindowFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of fdatasync itself, as that of a disk's own cache, counts as a failure."""
    write(window, 0, b"written")

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fails)
    window.sync()
    assert window.error == errno.EIO
    assert list(window.lost()) == [(0, 7)]
    assert window.failures == 1


def test_a_sync_that_cannot_open_the_file_changes_nothing(
    window: WindowFile, tmp_path: Path, kept: dict[WindowFile, None]
) -> None:
    """Without a descriptor nothing is known of the bytes, and they stay as they are."""
    write(window, 0, b"written")
    (tmp_path / "7-0-1").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        window.sync()
    assert list(kept) == [window]
    (tmp_path / "elsewhere").rename(tmp_path / "7-0-1")
    window.sync()
    assert window.error == 0
    assert not kept


def test_a_write_during_a_sync_is_not_durable(
    window: WindowFile, kernel: LostWriteBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are written while an fdatasync is in progress wait for the next one."""
    write(window, 0, b"first")
    real = os.fdatasync

    def writes_meanwhile(fd: int) -> None:
        real(fd)
        monkeypatch.setattr(os, "fdatasync", real)
        write(window, 3, b"second")

    monkeypatch.setattr(os, "fdatasync", writes_meanwhile)
    window.sync()
    assert window.error == 0
    kernel.lose()
    with pytest.raises(LostBytes):
        read(window, 3, 6)
    assert read(window, 0, 3) == b"fir"


def test_recorded_losses_stay(tmp_path: Path, kernel: LostWriteBack) -> None:
    """A file that is opened with lost ranges has them, and keeps them when it is read again."""
    (tmp_path / "7-0-1").write_bytes(b"0123456789")
    files = Descriptors(Directory(tmp_path), os.O_RDWR)
    window = WindowFile(files, "7-0-1", {}, written=[(0, 4), (6, 10)], lost=[(4, 6)])
    window.reload()
    assert read(window, 0, 4) == b"0123"
    with pytest.raises(LostBytes):
        read(window, 0, 5)
    window.sync()
    assert window.error == 0
    assert list(window.lost()) == [(4, 6)]


def test_a_failed_write_may_have_changed_bytes(window: WindowFile, kernel: LostWriteBack) -> None:
    """Bytes that a failed write may have changed are not durable, and lost ones stay lost."""
    write(window, 0, b"durable")
    window.sync()
    file = window.descriptor()
    failures = window.begin_write(file)
    write_at(file, 2, [b"xyz"])
    window.end_write(2, 2, 5, failures)
    kernel.lose()
    with pytest.raises(LostBytes):
        read(window, 0, 7)
    window.sync()
    assert window.error == errno.EIO
    failures = window.begin_write(file)
    window.end_write(2, 2, 5, failures)
    assert list(window.lost()) == [(2, 5)]
