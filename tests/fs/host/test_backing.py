"""Backing files: files that the kernel reads, writes and maps by itself.

These are the facts that a mount with passthrough stands on, each in the orders that programs cause.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.mounts import DEADLINE, run, wait_until, with_passthrough

pytestmark = [
    pytest.mark.mount,
    pytest.mark.usefixtures("fuse"),
    *with_passthrough,
]

# Python's own mapping keeps a duplicate of the descriptor.
LIBC = ctypes.CDLL(None)
LIBC.mmap.restype = ctypes.c_void_p


@dataclass(frozen=True)
class Backed:
    """A mounted `tests.support.backed_files`."""

    path: Path
    folder: Path
    server: subprocess.Popen[str]

    def answer(self, way: str) -> None:
        """Answer the next opens in a way."""
        os.setxattr(self.path, "user.way", way.encode())

    def count(self, kind: str) -> int:
        """How many requests of a kind came so far."""
        return int(json.loads(os.getxattr(self.path, "user.counts")).get(kind, 0))

    def open(self, way: str, name: str = "file", flags: int = os.O_RDWR | os.O_CREAT) -> int:
        self.answer(way)
        return os.open(self.path / name, flags)

    def plain(self, inode: int = 2) -> bytes:
        """The content of the backing file of an inode; 2 is the first."""
        return (self.folder / str(inode)).read_bytes()


@contextlib.contextmanager
def serving(path: Path, folder: Path) -> Iterator[Backed]:
    path.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "tests.support.backed_files", str(path), str(folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "mounted\n"
            yield Backed(path, folder, server)
        finally:
            subprocess.run(["umount", "-l", str(path)], check=False, timeout=DEADLINE)
            server.kill()  # a test that failed may have left a file open


@pytest.fixture
def backed(tmp_path: Path) -> Iterator[Backed]:
    with serving(tmp_path / "mnt", tmp_path / "plain") as backed:
        yield backed


@pytest.mark.parametrize(
    ("first", "second", "works"),
    [
        ("cached", "passed", False),
        ("passed", "cached", False),
        ("passed", "direct", False),
        ("direct", "passed", True),
        ("passed", "passed", True),
        ("passed", "fresh", False),
        ("fresh", "passed", False),
        ("fresh", "fresh", False),
    ],
)
@pytest.mark.parametrize("created", [True, False])
def test_opens_of_an_inode(
    backed: Backed, first: str, second: str, *, works: bool, created: bool
) -> None:
    """Opens at a time have one number of a backing file, or none; else the second gets EIO."""
    if not created:
        os.close(backed.open("cached"))
    fd = backed.open(first)
    if works:
        os.close(backed.open(second, flags=os.O_RDONLY))
    else:
        with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            backed.open(second, flags=os.O_RDONLY)
    os.write(fd, b"still open")
    os.close(fd)
    releases = 2 + (not created)
    wait_until(lambda: backed.count("release") >= releases - (not works))
    fd = backed.open(second, flags=os.O_RDONLY)
    assert os.read(fd, 100) == b"still open"
    os.close(fd)


def test_bytes_of_a_passed_file_take_no_requests(backed: Backed) -> None:
    """The kernel reads and writes a created file's backing file itself, from its first byte."""
    fd = backed.open("passed")
    os.write(fd, noise := os.urandom(1 << 20))
    assert backed.plain() == noise
    assert os.pread(fd, 1 << 20, 0) == noise
    os.close(fd)
    assert (backed.path / "file").read_bytes() == noise
    assert (backed.count("read"), backed.count("write")) == (0, 0)


def test_a_mapping_outlives_the_close(backed: Backed) -> None:
    """Pages written after the release reach the backing file; a lease is refused meanwhile."""
    fd = backed.open("passed")
    os.write(fd, bytes(8192))
    pages = LIBC.mmap(None, 8192, mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    wait_until(lambda: backed.count("release") == 1)
    reader = os.open(backed.folder / "2", os.O_RDONLY)
    ctypes.memmove(pages, b"later", 5)
    assert os.pread(reader, 5, 0) == b"later"
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    LIBC.munmap(ctypes.c_void_p(pages), 8192)
    fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    os.close(reader)


def test_a_lease_is_refused_while_a_writer_is_left(backed: Backed) -> None:
    """A passed open for writing counts for a lease; one for reading does not."""
    fd = backed.open("passed")
    os.write(fd, b"bytes")
    plain = os.open(backed.folder / "2", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(plain, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    os.close(fd)
    wait_until(lambda: backed.count("release") == 1)
    reader = backed.open("passed", flags=os.O_RDONLY)
    fcntl.fcntl(plain, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    assert os.read(reader, 5) == b"bytes"
    os.close(reader)
    os.close(plain)


def test_sizes_of_extended_files(backed: Backed) -> None:
    """A write past the end shows in stat(2) at once, to other programs, too."""
    fd = backed.open("passed")
    for size in (10, 100_000):
        os.pwrite(fd, b"x", size - 1)
        assert (backed.path / "file").stat().st_size == size
        assert int(run("stat", "-c", "%s", backed.path / "file")) == size
    os.close(fd)


def test_appends_of_two_programs(backed: Backed) -> None:
    """No append overwrites another."""
    flags = os.O_WRONLY | os.O_APPEND
    fd = backed.open("passed")
    first, second = backed.open("passed", flags=flags), backed.open("passed", flags=flags)
    for number in range(100):
        os.write(first if number % 2 else second, b"%04d" % number)
    assert backed.plain() == b"".join(b"%04d" % number for number in range(100))
    for opened in (fd, first, second):
        os.close(opened)


def test_a_truncation_under_a_mapping(backed: Backed) -> None:
    """Bytes that were cut off are zeros when the file grows again, in the mapping as well."""
    fd = backed.open("passed")
    os.write(fd, b"x" * 8192)
    with mmap.mmap(fd, 8192) as pages:
        os.ftruncate(fd, 100)
        os.ftruncate(fd, 8192)
        assert pages[:101] == b"x" * 100 + b"\0"
        assert pages[4096:] == bytes(4096)
    os.close(fd)
    assert backed.plain() == b"x" * 100 + bytes(8092)


def test_an_open_that_truncates(backed: Backed) -> None:
    """O_TRUNC comes with the open, and the backing file is cut before the reply."""
    fd = backed.open("passed")
    os.write(fd, b"before")
    os.close(fd)
    fd = backed.open("passed", flags=os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"new")
    os.close(fd)
    assert (backed.path / "file").read_bytes() == b"new"


def test_registrations_end(backed: Backed) -> None:
    """Thousands of opens leave no files open in the kernel."""
    os.close(backed.open("passed"))

    def files() -> int:
        return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])

    before = files()
    for way in ("passed", "fresh"):
        backed.answer(way)
        for _ in range(2000):
            os.close(os.open(backed.path / "file", os.O_RDONLY))
    wait_until(lambda: files() < before + 1000)


@contextlib.contextmanager
def mounted_at(path: Path, *options: str) -> Iterator[Path]:
    """Mount a file system by mount(8) inside the block."""
    path.mkdir()
    run("mount", *options, "none", path)
    try:
        yield path
    finally:
        run("umount", path)


def test_a_stacked_file_system_is_refused(tmp_path: Path) -> None:
    """A file on overlayfs cannot be a backing file."""
    with mounted_at(tmp_path / "tmpfs", "-t", "tmpfs") as tmpfs:
        for name in ("lower", "upper", "work"):
            (tmpfs / name).mkdir()
        places = f"lowerdir={tmpfs}/lower,upperdir={tmpfs}/upper,workdir={tmpfs}/work"
        with (
            mounted_at(tmp_path / "merged", "-t", "overlay", "-o", places) as merged,
            serving(tmp_path / "mnt", merged) as backed,
        ):
            with pytest.raises(OSError, match=rf"\[Errno {errno.ELOOP}\]"):
                backed.open("passed")
            os.close(backed.open("cached", flags=os.O_RDONLY))


def test_a_full_disk(tmp_path: Path) -> None:
    """ENOSPC of the backing disk reaches the program."""
    with (
        mounted_at(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m") as disk,
        serving(tmp_path / "mnt", disk / "plain") as backed,
    ):
        fd = backed.open("passed")
        assert os.write(fd, bytes(2 << 20)) <= 1 << 20
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            os.write(fd, bytes(1 << 20))
        os.close(fd)


def test_a_killed_server(backed: Backed) -> None:
    """Programs go on writing to its backing files unseen, and new opens fail."""
    fd = backed.open("passed")
    os.write(fd, b"before")
    backed.server.send_signal(signal.SIGKILL)
    backed.server.wait(DEADLINE)
    assert os.pwrite(fd, b" and after", 6) == 10
    assert os.pread(fd, 100, 0) == backed.plain() == b"before and after"
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOTCONN}\]"):
        os.open(backed.path / "file", os.O_RDONLY)
    plain = os.open(backed.folder / "2", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(plain, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    with contextlib.suppress(OSError):
        os.close(fd)
    fcntl.fcntl(plain, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    os.close(plain)
