"""Mounts of stores below a disk quota, which statvfs(2) does not show, and on a full btrfs.

On btrfs, LMDB's lock file needs room for each write, too: without it the kernel sends SIGBUS.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loop_disks import disk, fill_up, subvolume_with_quota
from tests.support.mounts import DEADLINE, MODELFS, Mount, modelfs, mounted, wait_until
from tests.support.stores import noise

pytestmark = pytest.mark.mount

MB = 1 << 20
REFUSED = (errno.ENOSPC, errno.EDQUOT)
# A disk of this size has a ballast of 32 MiB.
SIZE = 8 << 30
QUOTA = 160 * MB


def put(path: Path, data: bytes) -> None:
    """Write a file, and have it acknowledged."""
    path.write_bytes(data)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_refused(path: Path, data: bytes) -> bool:
    """Write a file; return whether there was no room for it."""
    try:
        put(path, data)
    except OSError as exc:
        if exc.errno not in REFUSED:
            raise
        return True
    return False


def hold(path: Path) -> None:
    """Use all room that is left, as another program does, to the last block."""
    fill_up(path)
    # Also LMDB's lock file is written back, so its next write needs room.
    subprocess.run(["sync", "-f", path], check=True, timeout=DEADLINE)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def below_quota(fuse: None, tmp_path: Path) -> Iterator[Mount]:
    """A mount of a store in a subvolume with a quota."""
    with subvolume_with_quota(tmp_path, SIZE, QUOTA) as home:
        modelfs("mkfs", home / "store")
        with mounted(home / "store", tmp_path / "mnt", log=tmp_path / "log") as mount:
            yield mount


def test_a_used_up_quota(below_quota: Mount) -> None:
    """It is an error of writes; the rest goes on, deletes make room, and stored files stay."""
    mount, kept = below_quota, dict[str, bytes]()
    while not is_refused(mount.path / f"f{len(kept)}", noise(4 * MB, len(kept))):
        kept[f"f{len(kept)}"] = noise(4 * MB, len(kept))
    assert len(kept) * 4 * MB > QUOTA // 4
    assert mount.alive
    assert os.statvfs(mount.path).f_bavail == 0
    (mount.path / f"f{len(kept)}").unlink(missing_ok=True)  # its first bytes
    assert contents(mount.path) == kept
    sync_folder(mount.path)  # staged bytes may have no room as chunks, but the removal is durable
    for name in list(kept)[1:]:
        (mount.path / name).unlink()
        del kept[name]
    mount.sync()
    modelfs("gc", mount.path)
    # btrfs gives the room of removed files back later, with a commit of its own.
    wait_until(lambda: not is_refused(mount.path / "more", noise(20 * MB, 99)))
    kept["more"] = noise(20 * MB, 99)
    mount.sync()
    mount.remount()
    assert contents(mount.path) == kept


def test_a_quota_that_others_use_up(below_quota: Mount) -> None:
    """When others have used it up, reads and deletes go on, and deletes are durable."""
    mount = below_quota
    for name in ("kept", "old"):
        put(mount.path / name, noise(4 * MB, 1))
        mount.sync()
    hold(mount.store.parent / "hog")
    assert contents(mount.path) == {"kept": noise(4 * MB, 1), "old": noise(4 * MB, 1)}
    assert is_refused(mount.path / "new", noise(40 * MB, 2))
    (mount.path / "old").unlink()
    (mount.path / "new").unlink(missing_ok=True)
    mount.sync()
    mount.kill()
    mount.start()
    assert contents(mount.path) == {"kept": noise(4 * MB, 1)}
    (mount.store.parent / "hog").unlink()
    mount.remount()
    put(mount.path / "new", noise(4 * MB, 2))
    assert contents(mount.path) == {"kept": noise(4 * MB, 1), "new": noise(4 * MB, 2)}


def test_a_full_btrfs(fuse: None, tmp_path: Path) -> None:
    """A store on a btrfs without a free block is refused in one line, and opens when there is."""
    with disk(tmp_path / "image", tmp_path / "disk", 256 * MB, "btrfs") as path:
        modelfs("mkfs", path / "store")
        with mounted(path / "store", tmp_path / "mnt", log=tmp_path / "log") as mount:
            put(mount.path / "f", noise(4 * MB, 1))
        hold(path / "hog")
        (tmp_path / "mnt").mkdir(exist_ok=True)
        for command in (("stats", path / "store"), ("mount", path / "store", tmp_path / "mnt")):
            done = subprocess.run(
                [*MODELFS, *command], capture_output=True, text=True, timeout=DEADLINE, check=False
            )
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert "no space left on the disk under" in done.stderr
            assert "Traceback" not in done.stderr
        (path / "hog").unlink()
        with mounted(path / "store", tmp_path / "mnt", log=tmp_path / "log") as mount:
            assert contents(mount.path) == {"f": noise(4 * MB, 1)}


def test_a_btrfs_that_others_fill(fuse: None, tmp_path: Path) -> None:
    """On a btrfs without a free block a mounted store serves reads, and makes deletes durable."""
    with disk(tmp_path / "image", tmp_path / "disk", 256 * MB, "btrfs") as path:
        modelfs("mkfs", path / "store")
        with mounted(path / "store", tmp_path / "mnt", log=tmp_path / "log") as mount:
            for name in ("kept", "old"):
                put(mount.path / name, noise(4 * MB, 1))
            mount.sync()
            hold(path / "hog")
            assert contents(mount.path) == {"kept": noise(4 * MB, 1), "old": noise(4 * MB, 1)}
            (mount.path / "old").unlink()
            assert is_refused(mount.path / "new", noise(40 * MB, 2))
            mount.sync()
            mount.kill()
            (path / "hog").unlink()
            mount.start()
            wait_until(lambda: "old" not in os.listdir(mount.path))
            assert (mount.path / "kept").read_bytes() == noise(4 * MB, 1)
