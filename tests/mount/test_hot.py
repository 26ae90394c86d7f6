"""Hot copies in a mount: the kernel reads files that were just written, or read twice."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Mount, modelfs, mounted, wait_until, with_passthrough
from tests.support.stores import names_in, noise, overwrite

pytestmark = [pytest.mark.mount, *with_passthrough]

DATA = noise(4 << 20)
OTHER = noise(4 << 20, 1)


@pytest.fixture
def hot(fuse: None, store: Path, tmp_path: Path) -> Iterator[Mount]:
    with mounted(store, tmp_path / "mnt", "--passthrough") as mount:
        yield mount


def copies(mount: Mount) -> set[str]:
    return names_in(mount.store / "staging")


def marked(mount: Mount) -> None:
    """Change the first byte of the only copy: programs that the kernel serves read it so."""
    (name,) = copies(mount)
    overwrite(mount.store / "staging" / name, 0, b"\0" if DATA[0] else b"\1")


def is_served_by_the_kernel(mount: Mount, path: Path) -> bool:
    marked(mount)
    return path.read_bytes()[0] != DATA[0]


def test_a_new_file_is_read_by_the_kernel(hot: Mount) -> None:
    """After its ingest, and no more after a change, an unmount, or a kill."""
    path = hot.path / "model.bin"
    path.write_bytes(DATA)
    hot.sync()
    assert path.read_bytes() == DATA
    wait_until(lambda: is_served_by_the_kernel(hot, path))
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"new")
    assert path.read_bytes() == DATA[:10] + b"new" + DATA[13:]
    hot.sync()
    hot.close()
    assert copies(hot) == set()
    modelfs("fsck", "--data", hot.store)


def test_a_file_that_is_read_twice_becomes_hot(hot: Mount) -> None:
    """Each time by a new daemon the first read is from its chunks."""
    path = hot.path / "model.bin"
    path.write_bytes(DATA)
    hot.sync()
    hot.remount(drop_caches=True)
    assert copies(hot) == set()
    assert path.read_bytes() == DATA
    assert path.read_bytes() == DATA
    wait_until(lambda: copies(hot) != set())
    assert path.read_bytes() == DATA
    wait_until(lambda: is_served_by_the_kernel(hot, path))


def test_replaced_and_removed_files_leave_no_copy(hot: Mount) -> None:
    """A rename over a hot file, and its removal, give its room back."""
    path, new = hot.path / "model.bin", hot.path / "new"
    path.write_bytes(DATA)
    hot.sync()
    new.write_bytes(OTHER)
    new.rename(path)
    hot.sync()
    assert path.read_bytes() == OTHER
    wait_until(lambda: len(copies(hot)) == 1)
    path.unlink()
    hot.sync()
    wait_until(lambda: copies(hot) == set())


def test_a_kill_leaves_no_copy(hot: Mount) -> None:
    """The next daemon deletes the files, and all bytes are in chunks."""
    path = hot.path / "model.bin"
    path.write_bytes(DATA)
    hot.sync()
    assert copies(hot) != set()
    hot.kill()
    hot.restart()
    assert path.read_bytes() == DATA
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 10, 1 << 20) == DATA[1 << 20 :][:10]


def test_without_room_for_copies(fuse: None, store: Path, tmp_path: Path) -> None:
    """`--hot-size 0`, as option and in fstab."""
    for options in (["--hot-size", "0"], ["-o", "hot_size=0"]):
        with mounted(store, tmp_path / "mnt", "--passthrough", *options) as mount:
            (mount.path / "f").write_bytes(DATA)
            mount.sync()
            assert copies(mount) == set()


def test_by_hand(hot: Mount) -> None:
    """`warm` of a folder and `cool` of a file; `stats` shows the copies."""
    for name, data in (("a", DATA), ("b", OTHER), ("small", DATA[:100])):
        (hot.path / name).write_bytes(data)
    hot.sync()
    hot.remount(drop_caches=True)
    answer = modelfs("warm", hot.path)
    assert answer.startswith("hot: 2 files, 8.00 MiB\nnot hot: 1 file, ")
    assert hot.stats()["hot_files"] == 2
    assert hot.stats()["hot_bytes"] >= 2 * len(DATA)
    assert "8.00 MiB of copies of 2 files" in modelfs("stats", hot.path)
    assert modelfs("cool", hot.path / "b") == "no more hot: 1 file\n"
    wait_until(lambda: len(copies(hot)) == 1)
    wait_until(lambda: is_served_by_the_kernel(hot, hot.path / "a"))
    assert (hot.path / "b").read_bytes() == OTHER


def test_a_mount_without_passthrough(mount: Mount) -> None:
    """It cannot keep files hot: the error has the reason."""
    (mount.path / "f").write_bytes(DATA)
    mount.sync()
    with pytest.raises(AssertionError, match="this mount keeps no copies for the kernel; it needs"):
        modelfs("warm", mount.path / "f")
