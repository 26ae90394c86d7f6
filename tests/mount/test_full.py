"""Mounts of stores on disks that are full, fail, or are read-only.

The disks are small ones of their own (see `tests/mount/disks.py`).
"""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.store import Store
from tests.support.loop_disks import FaultyDisk, disk, faulty_disk, fill_up, free, remount
from tests.support.mounts import DEADLINE, MODELFS, Mount, modelfs, mounted, wait_until
from tests.support.stores import new_file, new_store, noise

pytestmark = pytest.mark.mount

MB = 1 << 20


def put(path: Path, data: bytes) -> None:
    """Write a file, and have it acknowledged."""
    with path.open("wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def fill(folder: Path) -> dict[str, bytes]:
    """Write files until the disk is full, and return those that were acknowledged."""
    kept: dict[str, bytes] = {}
    while True:
        name, data = f"f{len(kept)}", noise(4 * MB, len(kept))
        try:
            put(folder / name, data)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            return kept
        kept[name] = data


@pytest.fixture
def small(fuse: None, tmp_path: Path) -> Iterator[Mount]:
    """A store on a disk of its own of 112 MiB, mounted."""
    with disk(tmp_path / "image", tmp_path / "disk", 112 * MB) as path:
        modelfs("mkfs", path / "store")
        mount = Mount(path / "store", tmp_path / "mnt", log=tmp_path / "log")
        mount.start()
        try:
            yield mount
        finally:
            mount.close()


def test_full_disk(small: Mount) -> None:
    """A full disk is ENOSPC at write; acknowledged content stays, and rm gives room for more."""
    kept = fill(small.path)
    assert all((small.path / name).read_bytes() == data for name, data in kept.items())
    assert free(small.path) < 4 * MB
    for name in list(kept)[::2]:
        (small.path / name).unlink()
        del kept[name]
    gone = len(kept) * 4 * MB
    wait_until(lambda: free(small.path) > gone // 2)
    put(small.path / "more", noise(4 * MB, 99))
    kept["more"] = noise(4 * MB, 99)
    small.remount()
    assert all((small.path / name).read_bytes() == data for name, data in kept.items())


def test_room_of_deleted_files_comes_back_in_a_full_store(small: Mount) -> None:
    """When new content has used up the reserve, too, gc goes on without a command."""
    kept = fill(small.path)
    for number in range(3):
        with contextlib.suppress(OSError):
            put(small.path / f"more{number}", noise(8 * MB, 100 + number))
    gone = list(kept)[::3]
    for name in gone:
        (small.path / name).unlink()
        del kept[name]
    wait_until(lambda: free(small.store.parent) > len(gone) * 4 * MB)
    wait_until(lambda: free(small.path) > 12 * MB)
    shown = free(small.path)  # and that much can be written, about
    for number in range(shown // (4 * MB) - 1):
        kept[f"new{number}"] = noise(4 * MB, 200 + number)
        put(small.path / f"new{number}", kept[f"new{number}"])
    assert all((small.path / name).read_bytes() == data for name, data in kept.items())


def test_disk_filled_by_others(small: Mount) -> None:
    """On a disk without a free byte files can be removed, and dead packs go; nothing is lost."""
    kept = {f"f{number}": noise(4 * MB, number) for number in range(8)}
    for name, data in kept.items():
        put(small.path / name, data)
        small.sync()
    (small.path / "late").mkdir()  # not committed yet
    fill_up(small.store.parent / "hog")
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
        put(small.path / "more", noise(4 * MB, 9))
    assert free(small.path) == 0
    for name in list(kept)[:6]:  # the first pack has five of them
        (small.path / name).unlink()
        del kept[name]
    wait_until(lambda: free(small.store.parent) > 16 * MB)
    assert all((small.path / name).read_bytes() == data for name, data in kept.items())
    (small.store.parent / "hog").unlink()
    put(small.path / "more", b"more")
    small.remount()
    assert sorted(os.listdir(small.path)) == sorted([*kept, "late", "more"])


def test_store_on_a_read_only_disk(small: Mount, tmp_path: Path) -> None:
    """A store on a read-only disk can be mounted read-only; otherwise one line has the reason."""
    put(small.path / "f", noise(4 * MB, 1))
    small.stop()
    remount(small.store.parent, "ro")
    done = refused(small.store, small.path)
    assert "--read-only" in done
    with mounted(small.store, tmp_path / "shown", "--read-only", log=tmp_path / "log") as shown:
        assert (shown.path / "f").read_bytes() == noise(4 * MB, 1)
    remount(small.store.parent, "rw")
    small.start()


def refused(store: Path, path: Path) -> str:
    """Return the one line by which a mount is refused."""
    done = subprocess.run(
        [*MODELFS, "mount", store, path],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert not os.path.ismount(path)
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("damage", ["missing", "empty", "zeroed", "cut short", "unreadable"])
def test_index_that_cannot_be_read(fuse: None, tmp_path: Path, damage: str) -> None:
    """A mount of a store without a usable index is refused, and one line has the reason."""
    (tmp_path / "mnt").mkdir()
    store = new_store(tmp_path)
    with Store(store) as opened:
        for number in range(500):
            new_file(opened, b"%d" % number)
    data = store / "index" / "data.mdb"
    size = data.stat().st_size
    match damage:
        case "missing":
            data.unlink()
        case "unreadable":
            data.unlink()
            data.mkdir()
        case "zeroed":
            os.truncate(data, 0)
            os.truncate(data, size)
        case _:
            os.truncate(data, 0 if damage == "empty" else size // 2)
    line = refused(store, tmp_path / "mnt")
    assert "data.mdb" in line or "index" in line


def test_missing_pack(mount: Mount) -> None:
    """Files in a pack that is gone are EIO, and the log names it; the others are as they were."""
    put(mount.path / "lost", noise(4 * MB, 1))
    mount.sync()
    mount.stop()
    pack = mount.store / "packs" / "00000001.pack"
    pack.rename(mount.store.parent / "pack")
    mount.start()
    put(mount.path / "kept", noise(4 * MB, 2))
    with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
        (mount.path / "lost").read_bytes()
    assert "pack 1 is missing" in mount.log()
    assert (mount.path / "kept").read_bytes() == noise(4 * MB, 2)
    mount.stop()
    (mount.store.parent / "pack").rename(pack)
    mount.start()
    assert (mount.path / "lost").read_bytes() == noise(4 * MB, 1)


# -- a disk that fails on command


@pytest.fixture
def failing(fuse: None, tmp_path: Path) -> Iterator[tuple[Mount, FaultyDisk]]:
    """A mount of a store on a disk that fails on command."""
    with faulty_disk(tmp_path) as below:
        modelfs("mkfs", below.path / "store")
        mount = Mount(below.path / "store", tmp_path / "mnt", log=tmp_path / "log")
        mount.start()
        try:
            yield mount, below
        finally:
            mount.close()


FAILING_WRITES = {
    "write EIO staging": errno.EIO,
    "write ENOSPC staging": errno.ENOSPC,
    "create EIO staging": errno.EIO,
    "create EROFS staging": errno.EROFS,
    "fsync EIO staging": errno.EIO,
    "write EIO data.mdb": errno.EIO,
    "write ENOSPC data.mdb": errno.ENOSPC,
    "write EROFS data.mdb": errno.EROFS,
    # Only the meta page, after which LMDB has to be opened again.
    "write EIO data.mdb 8192": errno.EIO,
    "fsync EIO data.mdb": errno.EIO,
}


def test_failing_writes(failing: tuple[Mount, FaultyDisk]) -> None:
    """A failing write is an error for the program, and it can write again when the disk can."""
    mount, below = failing
    wanted = {"before": noise(MB, 1)}
    put(mount.path / "before", noise(MB, 1))
    for number, (fault, error) in enumerate(FAILING_WRITES.items()):
        name = fault.replace(" ", "-")
        with below.failing(fault), pytest.raises(OSError, match=rf"\[Errno {error}\]"):
            put(mount.path / name, noise(MB, 2))
        assert (mount.path / "before").read_bytes() == noise(MB, 1)
        wanted[name] = noise(MB, number)
        put(mount.path / name, wanted[name])
    mount.kill()
    mount.start()
    assert {path.name: path.read_bytes() for path in mount.path.iterdir()} == wanted


def test_failing_ingest(failing: tuple[Mount, FaultyDisk]) -> None:
    """Content that cannot be stored in chunks stays staged until the disk works again."""
    mount, below = failing
    put(mount.path / "f", noise(MB, 1))
    for call in ("write EIO", "write ENOSPC", "fsync EIO", "create EIO"):
        with below.failing(f"{call} packs"):
            with pytest.raises(AssertionError, match=r"free space|the disk failed"):
                modelfs("sync", mount.path)
            assert (mount.path / "f").read_bytes() == noise(MB, 1)
            assert mount.stats()["staged_bytes"] == MB
    mount.sync()
    assert mount.stats()["staged_bytes"] == 0
    mount.remount(drop_caches=True)
    assert (mount.path / "f").read_bytes() == noise(MB, 1)


def test_failing_read(failing: tuple[Mount, FaultyDisk]) -> None:
    """A read that fails or ends early is EIO, and the log names the file."""
    mount, below = failing
    put(mount.path / "f", noise(MB, 1))
    mount.sync()
    for fault in ("read EIO packs", "read PART packs"):
        mount.remount(drop_caches=True)
        with below.failing(fault), pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            (mount.path / "f").read_bytes()
    assert "packs/00000001.pack" in mount.log()
    mount.remount(drop_caches=True)
    assert (mount.path / "f").read_bytes() == noise(MB, 1)


def test_partial_writes(failing: tuple[Mount, FaultyDisk]) -> None:
    """A disk that takes half of each write gets the rest too."""
    mount, below = failing
    with below.failing("write PART staging", "write PART packs"):
        put(mount.path / "f", noise(MB, 1))
        mount.sync()
    mount.remount(drop_caches=True)
    assert (mount.path / "f").read_bytes() == noise(MB, 1)
