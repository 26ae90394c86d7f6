"""Capabilities of FUSE that libfuse does not ask for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from modelfs.fs.host import session_io
from tests.support.mounts import DEADLINE, with_session_io

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
