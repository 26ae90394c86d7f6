"""The guard: room that is held while programs write without asking for it."""

import os
from pathlib import Path

import pytest

from modelfs.store.disk import guard as guard_module
from modelfs.store.disk.guard import Guard
from tests.support.loop_disks import disk, free

MB = 1 << 20


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path)


def test_it_is_held_while_there_are_writers(guard: Guard) -> None:
    """It is held once, and given back when the last writer is gone."""
    assert guard.add_writer(2 * MB)
    assert guard.add_writer(8 * MB)
    guard.release()
    assert 2 * MB <= guard.bytes < 3 * MB
    guard.remove_writer()
    guard.release()
    assert guard.bytes >= 2 * MB
    guard.remove_writer()
    guard.release(idle_seconds=60)
    assert guard.bytes >= 2 * MB
    guard.release()
    assert guard.bytes == 0
    guard.release()


def test_the_next_writer_finds_it_held(guard: Guard) -> None:
    """A copy of many files opens one after the other."""
    assert guard.add_writer(MB)
    guard.remove_writer()
    guard.release(idle_seconds=60)
    assert guard.add_writer(MB)
    guard.release()
    assert guard.bytes >= MB
    guard.close()


def test_its_file_is_closed(guard: Guard, tmp_path: Path) -> None:
    """No name and no descriptor is left of it, although there is a writer."""
    before = os.listdir("/proc/self/fd")
    guard.add_writer(MB)
    assert os.listdir(tmp_path) == []
    guard.close()
    assert os.listdir("/proc/self/fd") == before
    guard.remove_writer()
    assert guard.bytes == 0


def test_a_disk_without_that_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds all or nothing, and the disk has the room again after the release."""
    with disk(tmp_path / "image", tmp_path / "disk", 64 * MB) as path:
        guard, before = Guard(path), free(path)
        assert not guard.add_writer(before + MB)
        assert guard.bytes == 0
        assert not guard.add_writer(before // 2)  # so soon after it was refused
        monkeypatch.setattr(guard_module, "RETRY_SECONDS", -1.0)
        assert guard.add_writer(before // 2)
        assert free(path) <= before - before // 2
        guard.close()
        assert free(path) >= before - MB


def test_tmpfs_holds_nothing() -> None:
    """It would take memory."""
    guard = Guard(Path("/dev/shm"))
    assert not guard.add_writer(MB)
    assert guard.bytes == 0
