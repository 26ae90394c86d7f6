"""Files that the kernel itself reads, writes and maps in a mount, until they are in chunks."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

import pytest

from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE, allocate
from modelfs.store.disk.space import Space
from tests.support.file_data import data_of
from tests.support.loop_disks import disk, free
from tests.support.mounts import (
    Mount,
    modelfs,
    mounted,
    run,
    run_python,
    wait_until,
    with_passthrough,
)
from tests.support.stores import names_in, noise
from tests.support.syscalls import fallocate

pytestmark = [pytest.mark.mount, *with_passthrough]

SIZE = 3 << 20
DATA = noise(SIZE)

# Python's own mapping keeps a duplicate of the descriptor.
LIBC = ctypes.CDLL(None)
LIBC.mmap.restype = ctypes.c_void_p


@pytest.fixture
def passing(fuse: None, store: Path, tmp_path: Path) -> Iterator[Mount]:
    options = ("--passthrough", "--allow-other", "--hot-size", "0")
    with mounted(store, tmp_path / "mnt", *options) as mount:
        yield mount


@contextmanager
def mapped(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    """Map a file that is closed at once, and yield the address."""
    fd = os.open(path, flags)
    protection = mmap.PROT_READ if flags == os.O_RDONLY else mmap.PROT_READ | mmap.PROT_WRITE
    size = os.fstat(fd).st_size
    address = LIBC.mmap(None, size, protection, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    try:
        yield address
    finally:
        LIBC.munmap(ctypes.c_void_p(address), size)


def close_orphan(fd: int) -> None:
    """Close a file of a mount whose daemon was killed: close(2) fails, and closes it."""
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)


def staged(mount: Mount) -> set[str]:
    return names_in(mount.store / "staging")


def is_passed(path: Path) -> bool:
    """Whether the kernel reads a file itself: its blocks are then in a staging file of its own."""
    return any("-w-" in name for name in names_in(path))


def test_a_file_goes_through_the_kernel(passing: Mount) -> None:
    """A new file has its bytes at every moment: written, read again, synced, and in chunks."""
    path = passing.path / "model.bin"
    with path.open("wb") as file:
        file.write(DATA[:100])
        file.flush()
        assert path.stat().st_size == 100
        assert path.read_bytes() == DATA[:100]
        assert is_passed(passing.store / "staging")
        file.write(DATA[100:])
    assert (path.read_bytes(), path.stat().st_size) == (DATA, SIZE)
    assert path.stat().st_blocks == SIZE // 512
    passing.sync()
    assert staged(passing) == set()
    assert path.read_bytes() == DATA
    passing.remount(drop_caches=True)
    assert path.read_bytes() == DATA


def test_without_the_option(mount: Mount) -> None:
    """A mount passes no file through unless it is asked to."""
    with (mount.path / "f").open("wb") as file:
        file.write(DATA)
        file.flush()
        assert not is_passed(mount.store / "staging")


@pytest.mark.parametrize("limit", [["--limit", "300MiB"], ["-o", "sync"], ["--read-only"]])
def test_mounts_that_pass_nothing(
    fuse: None, store: Path, tmp_path: Path, limit: list[str]
) -> None:
    """A limit, synchronous writes and a read-only mount exclude it, and work."""
    with mounted(store, tmp_path / "mnt", "--passthrough", *limit) as mount:
        if "--read-only" in limit:
            with pytest.raises(OSError, match="Read-only"):
                (mount.path / "f").write_bytes(b"")
            return
        with (mount.path / "f").open("wb") as file:
            file.write(DATA)
            file.flush()
            assert not is_passed(store / "staging")
        assert (mount.path / "f").read_bytes() == DATA


def test_a_store_on_a_stacked_file_system(fuse: None, tmp_path: Path) -> None:
    """On overlayfs the mount works, without passthrough."""
    lower, upper, work, merged, layers = (
        tmp_path / name for name in ("lower", "upper", "work", "merged", "layers")
    )
    layers.mkdir()
    run("mount", "-t", "tmpfs", "none", layers)
    try:
        lower, upper, work = (layers / name for name in ("lower", "upper", "work"))
        for folder in (lower, upper, work, merged):
            folder.mkdir()
        places = f"lowerdir={lower},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", places, "none", merged)
        try:
            modelfs("mkfs", merged / "store")
            with mounted(
                merged / "store", tmp_path / "mnt", "--passthrough", "--hot-size", "0"
            ) as mount:
                (mount.path / "f").write_bytes(DATA)
                assert not is_passed(mount.store / "staging")
                mount.sync()
                assert (mount.path / "f").read_bytes() == DATA
        finally:
            run("umount", merged)
    finally:
        run("umount", layers)


def test_flags_that_pass_nothing(passing: Mount) -> None:
    """A write that has to be durable, or that goes past the page cache, takes the usual path."""
    for number, flag in enumerate((os.O_SYNC, os.O_DSYNC, os.O_DIRECT)):
        fd = os.open(passing.path / f"{number}", os.O_RDWR | os.O_CREAT | flag)
        with mmap.mmap(-1, 4096) as page:
            os.write(fd, page)
        assert not is_passed(passing.store / "staging")
        os.close(fd)


def test_opens_in_any_order(passing: Mount) -> None:
    """Programs may open, truncate, append to and remove a file that others have open."""
    path = passing.path / "f"
    path.write_bytes(DATA)
    with path.open("rb") as reader, path.open("ab") as appending:
        appending.write(b"end")
        appending.flush()
        assert os.pread(reader.fileno(), 10, SIZE) == b"end"
        with path.open("r+b") as editing:
            editing.write(b"begin")
        with path.open("wb") as writing:
            writing.write(b"anew")
            writing.flush()
            assert os.pread(reader.fileno(), 10, 0) == b"anew"
        appending.write(b"more")
        appending.flush()
        path.unlink()
        assert os.pread(reader.fileno(), 10, 0) == b"anewmore"
    path.write_bytes(b"another")
    assert path.read_bytes() == b"another"
    passing.sync()
    assert staged(passing) == set()


def test_copies_and_holes(passing: Mount) -> None:
    """`cp` copies between passed and stored files; holes are made where passed, and found."""
    path, other, third = (passing.path / name for name in ("f", "g", "h"))
    path.write_bytes(DATA)
    run("cp", path, other)
    assert other.read_bytes() == DATA
    with path.open("r+b") as file:
        fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 4096, 8192)
        assert file.read() == DATA[:4096] + bytes(8192) + DATA[12_288:]
        os.ftruncate(file.fileno(), SIZE + (1 << 20))
    wait_until(lambda: data_of(path) == [(0, 4096), (12_288, SIZE)])
    passing.sync()
    assert data_of(path) == [(0, 4096), (12_288, SIZE)]
    run("cp", path, third)
    assert third.read_bytes() == DATA[:4096] + bytes(8192) + DATA[12_288:] + bytes(1 << 20)


def test_a_stored_file_that_is_edited(passing: Mount) -> None:
    """A file whose content is in chunks is edited by way of the daemon, and then read right."""
    path = passing.path / "f"
    path.write_bytes(DATA)
    passing.sync()
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"edited")
    assert not is_passed(passing.store / "staging")
    expected = DATA[: SIZE // 2] + b"edited" + DATA[SIZE // 2 + 6 :]
    assert path.read_bytes() == expected
    with path.open("wb") as file:
        file.write(b"replaced")
        file.flush()
        assert is_passed(passing.store / "staging")
    assert path.read_bytes() == b"replaced"


def test_a_mapping_outlives_a_sync(passing: Mount) -> None:
    """A file is not final while a program has it mapped, though it was closed."""
    path = passing.path / "f"
    path.write_bytes(DATA)
    with mapped(path) as address:
        ctypes.memmove(address, b"first", 5)
        passing.sync()
        assert is_passed(passing.store / "staging")
        ctypes.memmove(address, b"later", 5)
        assert path.read_bytes() == b"later" + DATA[5:]
        before = path.stat().st_mtime_ns
    passing.sync()
    assert staged(passing) == set()
    assert path.read_bytes() == b"later" + DATA[5:]
    assert path.stat().st_mtime_ns >= before


def test_a_reader_that_has_the_file_mapped(passing: Mount) -> None:
    """It sees the writes of others, although the file was in chunks in between."""
    path = passing.path / "f"
    path.write_bytes(DATA)
    with mapped(path, os.O_RDONLY) as address:
        passing.sync()
        with path.open("r+b") as file:
            file.write(b"edited")
        assert ctypes.string_at(address, 6) == b"edited"
        passing.sync()
        os.truncate(path, 4096)
        os.truncate(path, 8192)
        assert ctypes.string_at(address + 4095, 3) == DATA[4095:4096] + b"\0\0"
    passing.sync()
    wait_until(lambda: not staged(passing))
    assert path.read_bytes() == b"edited" + DATA[6:4096] + bytes(4096)


def test_the_time_of_a_change_through_a_mapping(passing: Mount) -> None:
    """stat(2) shows it, also of a file whose attributes the kernel had."""
    path = passing.path / "f"
    path.write_bytes(DATA)
    os.utime(path, ns=(1, 1))
    assert path.stat().st_mtime_ns == 1
    with mapped(path) as address:
        ctypes.memmove(address, b"x", 1)
        assert path.stat().st_mtime_ns > 1


@pytest.mark.parametrize("writes_on", [False, True])
def test_a_killed_daemon(passing: Mount, *, writes_on: bool) -> None:
    """Synced bytes are there; a program that outlives the daemon may write on."""
    path = passing.path / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, DATA)
        os.fsync(fd)
        os.write(fd, b"after")
        passing.kill(clear=False)
        if writes_on:
            os.write(fd, b"zombie")
        passing.clear()
        passing.start()
        expected = DATA + (b"afterzombie" if writes_on else b"after")
        assert path.read_bytes() == expected
        if writes_on:
            passing.sync()
            os.write(fd, b"!")
            expected += b"!"
            assert path.read_bytes() == expected
    finally:
        close_orphan(fd)
    passing.sync()
    assert staged(passing) == set()
    assert path.read_bytes() == expected


def test_a_daemon_that_ends_while_a_file_is_written(passing: Mount) -> None:
    """An end in order makes everything durable that was written by then."""
    fd = os.open(passing.path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, DATA)
    passing.terminate()
    os.close(fd)
    passing.start()
    assert (passing.path / "f").read_bytes() == DATA


def test_set_id_bits_are_cleared_by_a_write(passing: Mount) -> None:
    """A user who may write a file does not get the rights of its owner by that."""
    path = passing.path / "tool"
    path.touch()
    path.chmod(0o777)
    (passing.path / ".").chmod(0o755)
    program = """
        import os, sys
        fd = os.open(sys.argv[1], os.O_RDWR)
        os.setuid(65534)
        print("open", flush=True)
        input()
        os.write(fd, b"evil")
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        path.chmod(0o4777)
        os.setxattr(
            path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
        )
        assert path.stat().st_mode & stat.S_ISUID
        process.communicate("go\n", timeout=30)
    assert not path.stat().st_mode & stat.S_ISUID
    assert "security.capability" not in os.listxattr(path)


def test_set_id_bits_of_a_finished_file_stay(passing: Mount) -> None:
    """`cp -p` and `tar` set the mode while they have the file open; it stays."""
    path = passing.path / "tool"
    with path.open("wb") as file:
        file.write(DATA)
        os.fchmod(file.fileno(), 0o4755)
    assert path.stat().st_mode & stat.S_ISUID
    passing.sync()
    assert path.stat().st_mode & stat.S_ISUID
    other = passing.path / "other"
    other.write_bytes(DATA)
    with mapped(other), pytest.raises(OSError, match="Text file busy"):
        other.chmod(0o4755)


def test_durable_writes_beside_others(passing: Mount) -> None:
    """A program may open a file with O_SYNC that another one writes: its writes outlive a crash."""
    path = passing.path / "f"
    first = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(first, b"begin")
    second = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_SYNC)
    os.write(second, DATA)
    passing.kill()
    for fd in (first, second):
        close_orphan(fd)
    passing.start()
    assert path.read_bytes() == b"begin" + DATA


def test_the_limit_of_a_programs_files(passing: Mount) -> None:
    """RLIMIT_FSIZE holds for the program."""
    done = run_python(
        """
        import os, resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        print(os.write(fd, bytes(200)))
        """,
        passing.path / "f",
    )
    assert done == "100\n"


def test_locks_of_programs(passing: Mount) -> None:
    """Locks are of the mount's file."""
    path = passing.path / "f"
    with path.open("wb") as first, path.open("r+b") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_small_files(passing: Mount) -> None:
    """Thousands of files, made and closed, leave no registered file and no descriptor behind."""
    for number in range(2000):
        (passing.path / f"{number % 500}").write_bytes(b"%d" % number)
    passing.sync()
    assert staged(passing) == set()
    for number in range(500):
        assert int((passing.path / f"{number}").read_bytes()) % 500 == number


@contextmanager
def nearly_full_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 4 GiB inside the block, of which 560 MiB are free."""
    with disk(folder / "image", folder / "disk", 4 << 30) as path:
        with (path / "of others").open("wb") as file:
            allocate(file.fileno(), free(path) - (560 << 20))
        yield path


def test_a_file_of_more_than_half_of_the_room(fuse: None, tmp_path: Path) -> None:
    """It becomes chunks in parts, each of which gives its room back."""
    data = noise(150 << 20) + noise(150 << 20, 1)
    with nearly_full_disk(tmp_path) as path:
        modelfs("mkfs", path / "store")
        with mounted(path / "store", tmp_path / "mnt", "--passthrough", "--hot-size", "0") as mount:
            (mount.path / "f").write_bytes(data)
            assert is_passed(mount.store / "staging")
            mount.sync()
            assert staged(mount) == set()
            assert (mount.path / "f").read_bytes() == data
            wait_until(lambda: free(path) > 150 << 20)  # without the guard
        modelfs("fsck", "--data", path / "store")


def has_room(file: RawIOBase, data: bytes) -> bool:
    """Write to a file, and return whether it had room for all of the data."""
    try:
        return file.write(data) == len(data)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return False


def test_a_writer_that_fills_the_disk(fuse: None, tmp_path: Path) -> None:
    """The disk refuses it before the reserve is used, and all that it wrote becomes chunks."""
    with nearly_full_disk(tmp_path) as path:
        modelfs("mkfs", path / "store")
        with mounted(path / "store", tmp_path / "mnt", "--passthrough", "--hot-size", "0") as mount:
            (mount.path / "old").write_bytes(noise(1 << 20))
            mount.sync()
            reserve = Space(path / "store").reserve_bytes
            block, written = noise(1 << 20), 0
            with (mount.path / "f").open("wb", buffering=0) as file:
                assert is_passed(mount.store / "staging")
                while has_room(file, block[written:] + block[:written]):
                    written += 1
                (mount.path / "old").unlink()
            wait_until(lambda: free(path) > reserve // 2)
            mount.sync()
            assert staged(mount) == set()
            with (mount.path / "f").open("rb") as file:
                for number in range(written):
                    assert file.read(1 << 20) == block[number:] + block[:number]
        modelfs("fsck", "--data", path / "store")
