"""Copies inside a mount, by `cp` and by copy_file_range(2)."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from tests.support.file_data import data_of
from tests.support.mounts import (
    DEADLINE,
    OPTIONS,
    Mount,
    drop_kernel_caches,
    mounted,
    run,
    run_python,
    with_passthrough,
    with_session_io,
)
from tests.support.stores import model_of, noise
from tests.support.syscalls import fallocate

pytestmark = [pytest.mark.mount, with_session_io]

clones = pytest.mark.skipif(
    "--passthrough" in OPTIONS, reason="the kernel copies into files that it writes itself"
)

MB = 1 << 20
COPIES = """
import os, sys
source = os.open(sys.argv[1], os.O_RDONLY)
target = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
print("begun", flush=True)
while os.copy_file_range(source, target, 1 << 30):
    pass
"""
DATA = noise(5 * MB + 3)
MODEL = model_of(*(noise(700_001, seed) for seed in range(8)))


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def chunks(mount: Mount) -> int:
    return sum(int(form["chunks"]) for form in mount.stats()["forms"].values())


def packs(mount: Mount) -> int:
    return sum(path.stat().st_size for path in (mount.store / "packs").iterdir())


@clones
@pytest.mark.parametrize("content", [DATA, MODEL], ids=["plain", "model"])
def test_cp_of_a_stored_file(mount: Mount, content: bytes) -> None:
    """`cp` stores no chunk, stages no byte, and reads none; a model's copy is one, too."""
    source, target = mount.path / "a", mount.path / "b"
    source.write_bytes(content)
    mount.sync()
    before = chunks(mount), packs(mount)
    run("cp", source, target)
    assert mount.stats()["staged_bytes"] == 0
    mount.cool()
    assert (chunks(mount), packs(mount)) == before
    assert target.read_bytes() == content
    assert mount.inspect(target)["format"] == mount.inspect(source)["format"]
    source.unlink()
    mount.remount(drop_caches=True)
    assert target.read_bytes() == content


@clones
def test_cp_of_a_staged_file(mount: Mount) -> None:
    """`cp` of a file that is not in chunks yet copies its bytes, and the next `cp` clones."""
    source, target = mount.path / "a", mount.path / "b"
    source.write_bytes(DATA)
    run("cp", source, target)
    assert target.read_bytes() == DATA
    mount.sync()
    run("cp", source, mount.path / "c")
    assert mount.stats()["staged_bytes"] == 0
    assert (mount.path / "c").read_bytes() == DATA


def test_cp_over_a_file(mount: Mount) -> None:
    """A copy over a longer file, whose pages the kernel has, has its bytes and no others."""
    source, target = mount.path / "a", mount.path / "b"
    source.write_bytes(MODEL)
    target.write_bytes(DATA * 2)
    mount.sync()
    assert target.read_bytes() == DATA * 2
    run("cp", source, target)
    assert target.read_bytes() == MODEL
    mount.cool()
    assert target.read_bytes() == MODEL


def test_cp_keeps_holes(mount: Mount) -> None:
    """A copy of a sparse file is as sparse."""
    source, target = mount.path / "a", mount.path / "b"
    with source.open("wb") as file:
        for at in (MB, 7 * MB + 4096):
            file.seek(at)
            file.write(DATA[: 2 * MB])
        file.truncate(1 << 40)
    mount.sync()
    run("cp", source, target)
    assert data_of(target) == [(MB, 3 * MB), (7 * MB + 4096, 9 * MB + 4096)]
    assert target.stat().st_size == 1 << 40


def test_ranges(mount: Mount) -> None:
    """Ranges go to any place, over pages and mappings that the kernel has."""
    source, target = mount.path / "a", mount.path / "b"
    source.write_bytes(DATA)
    target.write_bytes(DATA[::-1])
    mount.sync()
    run_python(
        """
        import mmap, os, sys
        data, old = open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read()
        with (
            open(sys.argv[1], "r+b") as source,
            open(sys.argv[2], "r+b") as target,
            mmap.mmap(target.fileno(), 0) as pages,
            mmap.mmap(source.fileno(), 0) as written,
        ):
            assert pages[:] == old
            written[2_000_000:2_000_005] = b"dirty"
            copied = os.copy_file_range(source.fileno(), target.fileno(), 3_000_001, 1234, 99)
            assert copied == 3_000_001
            data = data[:2_000_000] + b"dirty" + data[2_000_005:]
            expected = old[:99] + data[1234 : 3_001_235] + old[3_000_100:]
            assert pages[:] == expected
            os.lseek(target.fileno(), 0, os.SEEK_SET)
            assert os.read(target.fileno(), len(old)) == expected
        """,
        source,
        target,
    )
    mount.cool()
    data = DATA[:2_000_000] + b"dirty" + DATA[2_000_005:]
    old = DATA[::-1]
    assert target.read_bytes() == old[:99] + data[1234:3_001_235] + old[3_000_100:]


def test_refused_copies(mount: Mount) -> None:
    """Ranges that overlap, and targets to which is only appended, are refused; limits hold."""
    path = mount.path / "a"
    path.write_bytes(DATA)
    mount.sync()
    with opened(path, os.O_RDWR) as fd:
        with pytest.raises(OSError, match=rf"\[Errno {errno.EINVAL}\]"):
            os.copy_file_range(fd, fd, 2 * MB, 0, MB)
        with (
            opened(mount.path / "b", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as other,
            pytest.raises(OSError, match=rf"\[Errno {errno.EBADF}\]"),
        ):
            os.copy_file_range(fd, other, MB, 0, 0)
    limited = f"""
        import os, resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({MB}, {MB}))
        source = os.open(sys.argv[1], os.O_RDONLY)
        target = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
        assert os.copy_file_range(source, target, {2 * MB}) == {MB}
        try:
            os.copy_file_range(source, target, 1)
        except OSError as exc:
            assert exc.errno == {errno.EFBIG}, exc
        else:
            raise AssertionError("no limit")
        """
    run_python(limited, path, mount.path / "c")
    assert (mount.path / "c").read_bytes() == DATA[:MB]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != MB


def test_copies_beside_writers_and_readers(mount: Mount) -> None:
    """A copy of a file that is written and ingested meanwhile has bytes of its states only."""
    source = mount.path / "a"
    source.write_bytes(bytes(2 * MB))
    mount.sync()
    ended = threading.Event()

    def write() -> None:
        with source.open("r+b", buffering=0) as file:
            for number in range(1, 40):
                file.seek(0)
                file.write(bytes([number]) * MB)
                file.write(bytes([number]) * MB)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    copies = 0
    while not ended.is_set() or copies < 3:
        target = mount.path / f"copy{copies % 3}"
        run("cp", source, target)
        content = target.read_bytes()
        assert len(content) == 2 * MB
        assert set(content) <= set(range(40))
        copies += 1
    writer.join()
    mount.sync()
    drop_kernel_caches()
    run("cp", source, mount.path / "last")
    assert (mount.path / "last").read_bytes() == source.read_bytes() == bytes([39]) * 2 * MB


def test_a_kill_after_an_fsync(mount: Mount) -> None:
    """After the daemon was killed, a copy that was synced is whole; another may be empty."""
    source = mount.path / "a"
    source.write_bytes(DATA)
    mount.sync()
    run("cp", source, mount.path / "b")
    with opened(mount.path / "b", os.O_RDWR) as fd:
        os.fsync(fd)
    run("cp", source, mount.path / "c")
    mount.kill()
    mount.restart()
    assert (mount.path / "b").read_bytes() == DATA
    if (mount.path / "c").exists():
        assert (mount.path / "c").read_bytes() in (b"", DATA)


def test_the_end_of_the_daemon_during_copies(mount: Mount) -> None:
    """SIGTERM ends the daemon in good order while programs copy."""
    (mount.path / "a").write_bytes(DATA * 4)
    mount.sync()
    command = f"while cp {mount.path}/a {mount.path}/b; do :; done"
    with subprocess.Popen(["sh", "-c", command], stderr=subprocess.DEVNULL) as copying:
        while not (mount.path / "b").exists():
            pass
        mount.terminate()
        copying.wait(DEADLINE)
    mount.start()
    assert (DATA * 4).startswith((mount.path / "b").read_bytes())


def test_a_full_store(fuse: None, store: Path, tmp_path: Path) -> None:
    """Copies of stored files need next to no room."""
    with mounted(store, tmp_path / "mnt", "--limit", "64M") as mount:
        (mount.path / "a").write_bytes(noise(30 * MB))
        mount.sync()
        for number in range(10):
            run("cp", mount.path / "a", mount.path / f"copy{number}")
        mount.sync()
        assert (mount.path / "copy9").read_bytes() == noise(30 * MB)


@clones
def test_an_interrupted_copy(mount: Mount) -> None:
    """A signal ends the copy of a long sparse file between two requests."""
    path = mount.path / "a"
    path.touch()
    os.truncate(path, 1 << 50)
    with subprocess.Popen(
        [sys.executable, "-c", COPIES, path, mount.path / "b"], stdout=subprocess.PIPE
    ) as copying:
        assert copying.stdout is not None
        assert copying.stdout.readline() == b"begun\n"
        copying.send_signal(signal.SIGTERM)
        assert copying.wait(DEADLINE) == -signal.SIGTERM
    assert (mount.path / "b").stat().st_size < 1 << 50
    os.truncate(path, 0)


@with_passthrough[0]
@with_passthrough[1]
def test_files_that_the_kernel_writes(fuse: None, store: Path, tmp_path: Path) -> None:
    """`cp` of a file, stored or not, to one that the kernel writes itself has all its bytes."""
    with mounted(store, tmp_path / "mnt", "--passthrough") as mount:
        source = mount.path / "a"
        source.write_bytes(DATA)
        run("cp", source, mount.path / "b")
        mount.sync()
        run("cp", source, mount.path / "c")
        with opened(mount.path / "d", os.O_RDWR | os.O_CREAT) as fd, opened(source, 0) as other:
            os.write(fd, b"first")
            assert os.copy_file_range(other, fd, MB, 7, 3) == MB
            assert os.pread(fd, 8, 0) == b"fir" + DATA[7:12]
        for path, content in (
            (mount.path / "b", DATA),
            (mount.path / "c", DATA),
            (mount.path / "d", b"fir" + DATA[7 : MB + 7]),
        ):
            assert path.read_bytes() == content
        mount.cool()
        assert (mount.path / "d").read_bytes() == b"fir" + DATA[7 : MB + 7]
        before = chunks(mount)  # of a stored file no byte is copied
        with opened(mount.path / "c", os.O_RDWR) as fd, opened(source, 0) as other:
            assert os.copy_file_range(other, fd, MB, 0, 2 * MB) == MB
        mount.cool()
        assert (mount.path / "c").read_bytes() == DATA[: 2 * MB] + DATA[:MB] + DATA[3 * MB :]
        assert chunks(mount) == before


@pytest.mark.parametrize(
    ("options", "flag"),
    [((), os.O_SYNC), ((), os.O_DSYNC), (("-o", "sync"), 0)],
    ids=["O_SYNC", "O_DSYNC", "mount"],
)
def test_durable_copies_and_holes(
    fuse: None, store: Path, tmp_path: Path, options: tuple[str, ...], flag: int
) -> None:
    """With O_SYNC, or the mount option, a copy and a hole survive a kill of the daemon."""
    flags = os.O_CREAT | os.O_RDWR | flag
    with mounted(store, tmp_path / "mnt", *options) as mount:
        source = mount.path / "a"
        source.write_bytes(DATA)
        (mount.path / "holes").write_bytes(DATA)
        mount.sync()
        with opened(source, 0) as fd, opened(mount.path / "b", flags) as target:
            copied = 0
            while size := os.copy_file_range(fd, target, len(DATA)):
                copied += size
            assert copied == len(DATA)
        with opened(mount.path / "holes", flags) as fd:
            fallocate(fd, KEEP_SIZE | PUNCH_HOLE, MB, MB)
            fallocate(fd, 0, 0, len(DATA) + MB)
        mount.kill()
        mount.start()
        assert (mount.path / "b").read_bytes() == DATA
        expected = DATA[:MB] + bytes(MB) + DATA[2 * MB :] + bytes(MB)
        assert (mount.path / "holes").read_bytes() == expected
