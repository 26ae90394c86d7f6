"""Room on the disk that a store holds, and gives back at once."""

from pathlib import Path

import pytest

from modelfs.store.disk import allocation
from modelfs.store.disk.allocation import TMPFS
from modelfs.store.disk.ballast import Ballast
from tests.support.loop_disks import disk, free

MB = 1 << 20


@pytest.fixture
def held(tmp_path: Path) -> Ballast:
    """A ballast of 8 MiB."""
    held = Ballast(tmp_path)
    if not held.hold(8 * MB):
        pytest.skip("this disk has no nameless files that hold room")
    return held


def test_it_holds_room_without_a_name(held: Ballast, tmp_path: Path) -> None:
    """It holds bytes once, also if more are wanted later, and no name leads to them."""
    assert held.bytes == 8 * MB
    assert held.hold(16 * MB)
    assert held.bytes == 8 * MB
    assert list(tmp_path.iterdir()) == []


def test_a_release_gives_it_back_once(held: Ballast) -> None:
    """The first release gives the room back, and the next one has none."""
    assert held.release()
    assert held.bytes == 0
    assert not held.release()
    assert held.hold(MB)
    assert held.bytes == MB


def test_a_disk_without_room(tmp_path: Path) -> None:
    """More than the disk has is not held; a smaller ballast is possible there."""
    # A disk of its own: until it fails, the attempt takes all room from other programs.
    with disk(tmp_path / "image", tmp_path / "disk", 16 * MB) as path:
        held = Ballast(path)
        assert not held.hold(32 * MB)
        assert (held.bytes, held.is_missing) == (0, True)
        assert held.hold(4 * MB)
        held.close()


def test_a_little_less_room(tmp_path: Path) -> None:
    """If the disk has only three quarters of the wanted bytes, these are held, and mostly lent."""
    with disk(tmp_path / "image", tmp_path / "disk", 16 * MB) as path:
        wanted = free(path) * 5 // 4 & ~4095
        held = Ballast(path)
        assert held.hold(wanted)
        assert wanted * 3 // 4 <= held.bytes < wanted
        assert held.lendable == int(int(wanted * 3 / 4) * 3 / 4)
        held.close()
        assert not held.is_missing


def test_a_disk_in_memory_has_none(held: Ballast, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tmpfs a ballast would take memory."""
    held.release()
    monkeypatch.setattr(allocation, "file_system_type", lambda _: TMPFS)
    assert not held.hold(MB)
    assert (held.bytes, held.is_missing) == (0, False)
