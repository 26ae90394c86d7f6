"""Capabilities of FUSE that libfuse does not ask for."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from modelfs.fs.host import session_io
from modelfs.fs.host.session_io import COPY_FILE_RANGE, FALLOCATE, LSEEK
from tests.support.mounts import DEADLINE, wait_until, with_session_io

# Mounts a file system of one file in memory, and prints how often the kernel asked for an
# attribute of it, and the flags of the session.
PROGRAM: Final = """
import errno, os, stat, sys
from modelfs.fs.host import session_io
if sys.argv[2] == "with":
    assert session_io.load()
import pyfuse3, trio

class Memory(pyfuse3.Operations):
    asked = 0

    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        folder = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
        entry.st_ino, entry.st_nlink, entry.st_size = inode, 1, 0
        return entry

    async def lookup(self, parent, name, ctx):
        return await self.getattr(2, ctx)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=2)

    async def write(self, fh, offset, data):
        return len(data)

    async def getxattr(self, inode, name, ctx):
        assert name == b"security.capability"
        Memory.asked += 1
        raise pyfuse3.FUSEError(errno.ENODATA)

def write():
    fd = os.open(sys.argv[1] + "/file", os.O_WRONLY)
    for piece in range(100):
        os.pwrite(fd, b"x" * 4096, 4096 * piece)
    os.close(fd)

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        await trio.to_thread.run_sync(write)
        pyfuse3.terminate()

pyfuse3.init(Memory(), sys.argv[1], {"fsname=memory"})
try:
    trio.run(main)
finally:
    pyfuse3.close()
print(Memory.asked, session_io.granted())
"""


def asked_and_granted(mount_point: Path, way: str) -> tuple[int, int]:
    """Write 100 times to a mounted file; return the requests for attributes, and the flags."""
    mount_point.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mount_point, way],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked, granted = map(int, done.stdout.split())
    return asked, granted


@with_session_io
@pytest.mark.mount
@pytest.mark.usefixtures("fuse")
def test_writes_ask_for_no_capabilities(tmp_path: Path) -> None:
    """The kernel asks before the first write of a file only; without the callbacks, before each."""
    asked, granted = asked_and_granted(tmp_path / "with", "with")
    assert asked <= 1
    assert granted & session_io.HANDLE_KILLPRIV_V2
    assert not granted & session_io.HANDLE_KILLPRIV
    assert asked_and_granted(tmp_path / "without", "without") == (100, 0)


def test_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the callbacks a mount has libfuse's capabilities, and the linker's flags stay."""
    monkeypatch.setitem(sys.modules, "modelfs.fs.host._session_io", None)
    before = sys.getdlopenflags()
    assert not session_io.load()
    assert sys.getdlopenflags() == before
    assert session_io.granted() == 0
    assert not before & os.RTLD_GLOBAL
    session_io.carry(LSEEK)
    assert session_io.take_carried() is None


# -- carried requests

SEEK: Final = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(os.lseek(fd, int(sys.argv[2]), os.SEEK_DATA))
"""


def seek(file: Path, offset: int) -> subprocess.Popen[str]:
    """Let a program seek data from an offset on."""
    command = [sys.executable, "-c", SEEK, str(file), str(offset)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def seen(file: Path) -> list[list[int]]:
    """Return the opcodes and offsets of the carried requests so far."""
    found = json.loads(os.getxattr(file, "user.seen"))
    assert isinstance(found, list)
    return found


@contextlib.contextmanager
def carrying(path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Mount a `tests.support.carried_requests` inside the block: its file, and its server."""
    path.mkdir()
    program = [sys.executable, "-m", "tests.support.carried_requests", str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "mounted\n"
            yield path / "file", server
        finally:
            subprocess.run(["fusermount3", "-u", "-z", path], check=False, timeout=DEADLINE)
            server.kill()


@pytest.fixture
def file(tmp_path: Path, fuse: None) -> Iterator[Path]:
    with carrying(tmp_path / "mnt") as (file, _):
        yield file


@pytest.fixture
def opened(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDWR)
    yield fd
    os.close(fd)


@with_session_io
@pytest.mark.mount
def test_carried_requests(file: Path, opened: int) -> None:
    """A request of each kind comes whole, and gets its reply."""
    for offset, reply in ((5, b"6000"), (8192, b"4096")):
        os.setxattr(file.parent, f"user.{offset}", reply)
    assert os.lseek(opened, 5, os.SEEK_HOLE) == 6000
    os.posix_fallocate(opened, 10, 100)
    other = os.open(file, os.O_RDWR)
    assert os.copy_file_range(opened, other, 9000, 8192, 100_000) == 4096
    os.close(other)
    assert seen(file) == [[LSEEK, 5], [FALLOCATE, 10], [COPY_FILE_RANGE, 8192]]


@with_session_io
@pytest.mark.mount
def test_errors_of_carried_requests(file: Path, opened: int) -> None:
    """An error reaches the program, and the kernel goes on sending such requests."""
    os.setxattr(file.parent, "user.7", b"%d" % errno.ENXIO)
    os.setxattr(file.parent, "user.8", b"8")
    for _ in range(2):
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENXIO}\]"):
            os.lseek(opened, 7, os.SEEK_DATA)
    with pytest.raises(OSError, match=r"\[Errno 8\]"):
        os.posix_fallocate(opened, 8, 1)
    assert seen(file) == [[LSEEK, 7], [LSEEK, 7], [FALLOCATE, 8]]


@with_session_io
@pytest.mark.mount
def test_the_copy_that_is_not_supported(file: Path, opened: int) -> None:
    """After EOPNOTSUPP the kernel copies, and asks again for the next range; not after ENOSYS."""
    other = os.open(file, os.O_RDWR)
    for offset, error in ((4096, errno.EOPNOTSUPP), (8192, errno.EXDEV), (12_288, errno.ENOSYS)):
        os.setxattr(file.parent, f"user.{offset}", b"%d" % error)
        # This file system has no writes, so the copy of the kernel fails.
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSYS}\]"):
            os.copy_file_range(opened, other, 100, offset, 100_000)
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSYS}\]"):
        os.copy_file_range(opened, other, 100, 4096, 100_000)
    os.close(other)
    assert seen(file) == [[COPY_FILE_RANGE, offset] for offset in (4096, 8192, 12_288)]


@with_session_io
@pytest.mark.mount
def test_requests_that_are_not_carried(file: Path, opened: int) -> None:
    """An attribute with the name of the carrier is one, and other kinds have no handler."""
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENODATA}\]"):
        os.getxattr(file, "carried")
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOTTY}\]"):
        fcntl.ioctl(opened, termios.FIONREAD + 0x1000, bytes(4))
    assert seen(file) == []


@with_session_io
@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_during_a_carried_request(file: Path, number: signal.Signals) -> None:
    """A program that gets a signal ends with the reply; others are served meanwhile."""
    os.setxattr(file.parent, "user.9", b"-1")
    with seek(file, 9) as program:
        wait_until(lambda: seen(file) == [[LSEEK, 9]])
        program.send_signal(number)
        assert file.read_bytes() == bytes(1 << 20)
        os.setxattr(file.parent, "user.9", b"5000")
        assert program.wait(DEADLINE) == -number
    assert seen(file) == [[LSEEK, 9]]


@with_session_io
@pytest.mark.mount
@pytest.mark.usefixtures("fuse")
def test_the_end_during_a_carried_request(tmp_path: Path) -> None:
    """When the server dies, a program that waits gets an error."""
    with carrying(tmp_path / "mnt") as (file, server):
        os.setxattr(file.parent, "user.9", b"-1")
        with seek(file, 9) as program:
            wait_until(lambda: seen(file) == [[LSEEK, 9]])
            server.kill()
            server.wait(DEADLINE)
            _, problem = program.communicate(timeout=DEADLINE)
    assert f"[Errno {errno.ECONNABORTED}]" in problem
