"""Mounts of stores that are full: of a limit, or of a disk on which files are moved into the store.

The size of a store is measured from outside, again and again, as du(1) does.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelfs.store.disk.usage import disk_usage
from tests.support.loop_disks import disk, free
from tests.support.mounts import Mount, modelfs, mounted, wait_until
from tests.support.stores import model_of

pytestmark = pytest.mark.mount

MB = 1 << 20
LIMIT = 128 * MB


class Peak:
    """The largest size that a store was seen with."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def watched(store: Path) -> Iterator[Peak]:
    """Measure the size of a store in a loop, while the block lasts."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            peak.bytes = max(peak.bytes, disk_usage(store))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def model(seed: int, size: int) -> bytes:
    """Return a model whose tensors are not on the grid of its file."""
    chance = random.Random(seed)
    return model_of(*(chance.randbytes(size // 8 + 100) for _ in range(8)))


def fill(path: Path, seed: int = 9) -> None:
    """Write noise until there is no room."""
    chance = random.Random(seed)
    with path.open("wb", buffering=0) as file:
        pieces = iter(lambda: file.write(chance.randbytes(MB)), 0)
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            deque(pieces, maxlen=0)


@pytest.fixture
def limited(fuse: None, tmp_path: Path) -> Iterator[Mount]:
    """A mount of a store with a limit."""
    modelfs("mkfs", tmp_path / "store")
    log = tmp_path / "log"
    with mounted(tmp_path / "store", tmp_path / "mnt", "--limit", str(LIMIT), log=log) as mount:
        yield mount


def test_copies_fit_into_a_full_limit(limited: Mount, tmp_path: Path) -> None:
    """Second copies of a stored model fit when noise does not, and the limit is never passed."""
    source = tmp_path / "source"
    source.write_bytes(model(1, 60 * MB))
    with watched(limited.store) as peak:
        shutil.copyfile(source, limited.path / "first")
        shutil.copyfile(source, limited.path / "second")
        fill(limited.path / "noise")
        shutil.copyfile(source, limited.path / "third")
        limited.sync()
        for name in ("first", "second", "third"):
            assert (limited.path / name).read_bytes() == source.read_bytes()
        (limited.path / "noise").unlink()
        modelfs("optimize", limited.path)
    assert peak.bytes <= LIMIT


def test_failed_writers_leave_room_for_copies(limited: Mount, tmp_path: Path) -> None:
    """After six writers of noise have failed, a copy fits, names are made, and optimize begins."""
    source = tmp_path / "source"
    source.write_bytes(model(1, 60 * MB))
    with watched(limited.store) as peak:
        shutil.copyfile(source, limited.path / "first")
        fill(limited.path / "filler")
        limited.sync()
        before = disk_usage(limited.store)
        for number in range(5):
            fill(limited.path / f"noise{number}", seed=100 + number)
            written = (limited.path / f"noise{number}").read_bytes()
            assert random.Random(100 + number).randbytes(4 * MB).startswith(written)
        assert disk_usage(limited.store) < before + 6 * MB
        shutil.copyfile(source, limited.path / "second")
        assert (limited.path / "second").read_bytes() == source.read_bytes()
        (limited.path / "touched").touch()
        (limited.path / "folder").mkdir()
        assert "no space" not in modelfs("optimize", limited.path)
    assert peak.bytes <= LIMIT


def test_a_copy_goes_on_beside_failing_writers(limited: Mount, tmp_path: Path) -> None:
    """A writer of noise that finds no room ends no copy that is made at the same time."""
    source = tmp_path / "source"
    source.write_bytes(model(1, 60 * MB))
    shutil.copyfile(source, limited.path / "first")
    fill(limited.path / "filler")
    copy = threading.Thread(
        target=shutil.copyfile, args=(source, limited.path / "second"), daemon=True
    )
    copy.start()
    for number in range(3):
        fill(limited.path / f"noise{number}", seed=100 + number)
    copy.join()
    assert (limited.path / "second").read_bytes() == source.read_bytes()


def test_a_removed_file_makes_room_at_once(limited: Mount) -> None:
    """The room of a removed file is free in df(1), and for the next file, without a command."""
    limited.path.joinpath("old").write_bytes(random.Random(1).randbytes(70 * MB))
    limited.sync()
    before = free(limited.path)
    (limited.path / "old").unlink()
    wait_until(lambda: free(limited.path) > before + 60 * MB)
    with watched(limited.store) as peak:
        limited.path.joinpath("new").write_bytes(random.Random(2).randbytes(70 * MB))
    assert peak.bytes <= LIMIT


def test_files_are_moved_one_by_one(fuse: None, tmp_path: Path) -> None:
    """A folder is moved into a store on the same, nearly full disk, file by file."""
    with disk(tmp_path / "image", tmp_path / "disk", 224 * MB) as path:
        folder = path / "folder"
        folder.mkdir()
        for number, size in enumerate((10, 20, 5, 30, 20)):
            (folder / f"{number}").write_bytes(model(number, size * MB))
        sums = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
        modelfs("mkfs", path / "store")
        with (path / "hog").open("wb", buffering=0) as hog:
            while free(path) > 64 * MB:
                hog.write(bytes(MB))
        with mounted(path / "store", tmp_path / "mnt", log=tmp_path / "log") as mount:
            for name in sorted(sums):
                shutil.move(folder / name, mount.path / name)
            assert {name: (mount.path / name).read_bytes() for name in sums} == sums


def test_a_program_that_waits_can_be_ended(limited: Mount, tmp_path: Path) -> None:
    """A program that writes while there is no room ends within seconds of a signal."""
    write = (
        "import os, sys\nwhile True:\n try: os.write(1, os.urandom(1 << 20))\n except OSError: 0"
    )
    for number in (signal.SIGTERM, signal.SIGKILL):
        with (limited.path / "noise").open("wb") as noise:
            program = subprocess.Popen([sys.executable, "-c", write], stdout=noise)
        wait_until(lambda: "no space left" in limited.log())
        program.send_signal(number)
        assert program.wait(10) == -number


def test_all_accepted_bytes_become_chunks(fuse: None, tmp_path: Path) -> None:
    """A sync of a store that a small limit fills succeeds, and the limit is never passed."""
    modelfs("mkfs", tmp_path / "store")
    size = 60 * MB
    with (
        mounted(tmp_path / "store", tmp_path / "mnt", "--limit", str(size)) as mount,
        watched(mount.store) as peak,
    ):
        (mount.path / "first").write_bytes(model(1, 22 * MB))
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            (mount.path / "second").write_bytes(model(2, 40 * MB))
        (mount.path / "third").write_bytes(b"third")
        mount.sync()
        assert mount.stats()["staged_bytes"] == 0
        stored = (mount.path / "second").read_bytes()
        assert stored == model(2, 40 * MB)[: len(stored)]
        assert len(stored) > 8 * MB
    assert peak.bytes <= size


def test_staged_bytes_under_a_smaller_limit(fuse: None, tmp_path: Path) -> None:
    """Bytes that a mount with a larger limit has accepted become chunks under a smaller one."""
    modelfs("mkfs", tmp_path / "store")
    with mounted(tmp_path / "store", tmp_path / "mnt", "--limit", str(200 * MB)) as mount:
        (mount.path / "a").write_bytes(model(1, 40 * MB))
    with mounted(tmp_path / "store", tmp_path / "mnt", "--limit", str(64 * MB)) as mount:
        mount.sync()
        assert mount.stats()["staged_bytes"] == 0
        assert (mount.path / "a").read_bytes() == model(1, 40 * MB)
        assert disk_usage(mount.store) < 64 * MB
