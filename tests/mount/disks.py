"""Small disks of their own, to fill up and to take away: images on loop devices. For root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import run


def needs_loop_devices() -> None:
    """Skip where an image cannot be mounted."""
    if os.geteuid() or not Path("/dev/loop-control").exists() or not shutil.which("mkfs.ext4"):
        pytest.skip("a disk of its own needs root, loop devices and mkfs.ext4")


@contextmanager
def disk(image: Path, path: Path, size: int) -> Iterator[Path]:
    """Show an empty ext4 of `size` bytes at `path`."""
    needs_loop_devices()
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-m", "0", image)
    path.mkdir()
    run("mount", "-o", "loop", image, path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def remount(path: Path, options: str) -> None:
    run("mount", "-o", f"remount,{options}", path)


def free(path: Path) -> int:
    """Return the bytes that df(1) says are free."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize
