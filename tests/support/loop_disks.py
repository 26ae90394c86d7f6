"""Small disks to fill up or to remove: images on loop devices. For root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.support.mounts import DEADLINE, run, wait_until

MKFS: Final = {"ext4": ("-m", "0"), "btrfs": ("-K",)}


def needs_loop_devices(kind: str = "ext4") -> None:
    """Skip the test where an image cannot be mounted."""
    if os.geteuid() or not Path("/dev/loop-control").exists() or not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"a disk of its own needs root, loop devices and mkfs.{kind}")


@contextmanager
def disk(image: Path, path: Path, size: int, kind: str = "ext4") -> Iterator[Path]:
    """Show an empty file system of `size` bytes at `path`: an ext4, or a btrfs."""
    needs_loop_devices(kind)
    with image.open("wb") as file:
        file.truncate(size)
    run(f"mkfs.{kind}", "-q", *MKFS[kind], image)
    path.mkdir()
    run("mount", "-o", "loop", image, path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def subvolume_with_quota(top: Path, size: int, quota: int) -> Iterator[Path]:
    """Show an empty subvolume with a quota, both in bytes, on a btrfs of `size` bytes."""
    with disk(top / "image", top / "btrfs", size, "btrfs") as path:
        run("btrfs", "quota", "enable", path)
        run("btrfs", "subvolume", "create", path / "home")
        run("btrfs", "qgroup", "limit", str(quota), path / "home")
        yield path / "home"


@contextmanager
def thin_disk(top: Path, size: int, room: int) -> Iterator[Path]:
    """Show an empty ext4 of `size` bytes of which the disk can keep only `room`."""
    needs_loop_devices()
    backing = top / "backing"
    backing.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", backing)
    try:
        with disk(backing / "image", top / "thin", size) as path:
            yield path
    finally:
        subprocess.run(["umount", "--lazy", backing], check=True)


def remount(path: Path, options: str) -> None:
    run("mount", "-o", f"remount,{options}", path)


def fill_up(path: Path) -> None:
    """Write a file until its disk is full to the last byte, as another program does."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def free(path: Path) -> int:
    """Return the free bytes of a disk, as df(1) prints them."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


class FaultyDisk:
    """A folder on a disk that fails on command."""

    def __init__(self, path: Path, control: Path) -> None:
        self.path = path
        self._control = control

    @contextmanager
    def failing(self, *faults: str) -> Iterator[None]:
        """Make calls fail inside the block. `tests/support/faulty_fs.py` defines a fault."""
        self._control.write_text("\n".join(faults))
        try:
            yield
        finally:
            self._control.write_text("")


@contextmanager
def faulty_disk(top: Path) -> Iterator[FaultyDisk]:
    """Show an empty folder below `top` through a file system that fails on command."""
    folder, path, control = top / "backing", top / "faulty", top / "control"
    folder.mkdir()
    path.mkdir()
    control.write_text("")
    script = Path(__file__).with_name("faulty_fs.py")
    server = subprocess.Popen([sys.executable, script, folder, path, control])
    try:
        wait_until(lambda: os.path.ismount(path) or server.poll() is not None)
        assert server.poll() is None, "the faulty disk died before it mounted"
        yield FaultyDisk(path, control)
    finally:
        subprocess.run(["fusermount3", "-u", "-z", path], check=True)
        server.wait(DEADLINE)
