"""Pages of mapped files: they reach the store at a sync and at the end, and hold up no end."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from modelfs.fs.host import fsync_mapped
from tests.support import users
from tests.support.capabilities import limited_to, of_the_unit
from tests.support.mounts import DEADLINE, MODELFS, Mount, run, wait_until
from tests.support.stores import noise
from tests.support.users import BOB, user

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"
)
DATA: Final = noise(1 << 20)


@pytest.fixture
def home(fuse: None, store: Path, tmp_path: Path) -> Iterator[Mount]:
    """A mount of a daemon with the unit's capabilities, with a folder that only Bob may enter."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    prefix = limited_to(of_the_unit())
    mount = Mount(store, tmp_path / "mnt", "--allow-other", prefix=prefix)
    mount.start()
    try:
        (mount.path / "home").mkdir(mode=0o700)
        os.chown(mount.path / "home", BOB.uid, BOB.gid)
        yield mount
    finally:
        mount.close()


@pytest.mark.parametrize("end", ["sync", "stop"])
def test_mapped_pages_of_others(home: Mount, end: str) -> None:
    """Bytes that another user wrote through a mapping survive a kill after a sync, and a stop."""
    with user(BOB, home.path) as bob:
        assert bob(users.fill_mapping, "home/private", DATA) is None
        if end == "sync":
            home.sync()
            home.kill()
        else:
            home.terminate()
    home.start()
    with user(BOB, home.path) as bob:
        assert bob(users.read, "home/private") == DATA


def test_pages_that_cannot_be_reached(home: Mount) -> None:
    """Without the capability the sync fails and names the file, and so does the end."""
    home.terminate()
    limited = Mount(home.store, home.path, "--allow-other", prefix=limited_to(["CAP_SYS_ADMIN"]))
    limited.start()
    with user(BOB, home.path) as bob:
        assert bob(users.fill_mapping, "home/private", DATA) is None
        done = subprocess.run(
            [*MODELFS, "sync", home.path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "/home/private" in done.stderr
        with pytest.raises(AssertionError, match="ended with 1"):
            limited.terminate()
    home.start()


def test_the_kernel_opens_inodes_of_a_mount(mount: Mount) -> None:
    """A handle opens a file of a mount by its inode number, wherever the file is."""
    (mount.path / "a").write_bytes(b"content")
    inode = (mount.path / "a").stat().st_ino
    with contextlib.ExitStack() as stack:
        root = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, root)
        (mount.path / "a").rename(mount.path / "b")
        file = fsync_mapped.open_handle(root, inode)
        stack.callback(os.close, file)
        assert os.fstat(file).st_ino == inode
        assert os.read(file, 100) == b"content"
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            fsync_mapped.open_handle(root, inode + 1000)


@contextlib.contextmanager
def mapped(folder: int) -> Iterator[None]:
    """A process that keeps a mapping of the file "f" in a folder, with unwritten `DATA`."""
    code = """
        import mmap, os, sys
        fd = os.open("f", os.O_RDWR | os.O_CREAT, dir_fd=int(sys.argv[1]))
        data = sys.stdin.buffer.read()
        os.ftruncate(fd, len(data))
        os.fsync(fd)
        mapping = mmap.mmap(fd, len(data))
        mapping[:] = data
        print("written", flush=True)
        os.read(int(sys.argv[2]), 1)
    """
    end, keep = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(folder), str(end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(folder, end),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(DATA)
        process.stdin.close()
        assert process.stdout.readline() == b"written\n"
        yield
    finally:
        process.kill()
        process.wait(DEADLINE)
        process.stdout.close()
        for fd in (end, keep):
            os.close(fd)


@contextlib.contextmanager
def deep_folder(top: Path) -> Iterator[int]:
    """A descriptor of a folder whose path is longer than the kernel's longest."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(20):
        name = "d" * 250
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
        above, fd = fd, os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(above)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("end", ["sync", "stop"])
def test_mapped_pages_behind_a_long_path(mount: Mount, end: str) -> None:
    """Bytes that were written through a mapping reach the store from a path that nothing opens."""
    with deep_folder(mount.path) as folder, mapped(folder):
        if end == "sync":
            mount.sync()
            mount.kill()
        else:
            mount.terminate()
    mount.start()
    with deep_folder(mount.path) as folder:
        file = os.open("f", os.O_RDONLY, dir_fd=folder)
        try:
            assert os.read(file, len(DATA)) == DATA
        finally:
            os.close(file)


@pytest.mark.parametrize("with_same_file", [False, True])
def test_pages_below_another_mount(mount: Mount, *, with_same_file: bool) -> None:
    """If another mount hides this one, the sync and the end fail in place of losing bytes."""
    root = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, root)
        stack.enter_context(mapped(root))
        run("mount", "-t", "tmpfs", "none", mount.path)
        stack.callback(run, "umount", mount.path)
        if with_same_file:
            (mount.path / "f").write_bytes(b"other")
            assert (mount.path / "f").stat().st_ino == os.stat("f", dir_fd=root).st_ino
        done = subprocess.run(
            [*MODELFS, "sync", mount.store], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "/f through a mapping: another mount hides it" in done.stderr
    mount.sync()


# Two processes: one fills a mapping of a file again and again, one opens the file with O_TRUNC.
MAPPER: Final = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    os.ftruncate(fd, 64 << 20)
    mapping = mmap.mmap(fd, 64 << 20)
    for at in range(0, 64 << 20, 4096):
        mapping[at] = 1
"""
OPENER: Final = """
import os, sys
while True:
    os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
"""


@contextlib.contextmanager
def clients(path: Path) -> Iterator[None]:
    """Run both programs until the end of the block; one that dies of SIGBUS is started again."""
    loop = 'while :; do "$0" -c "$1" "$2"; done'
    processes = [
        subprocess.Popen(
            ["sh", "-c", loop, sys.executable, program, path],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for program in (MAPPER, OPENER)
    ]
    try:
        yield
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_end_during_truncating_opens(
    fuse: None, store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A daemon ends within seconds though opens with O_TRUNC wait for pages of a mapping."""
    mount = Mount(store, tmp_path / "mnt")
    mount.start()
    with clients(mount.path / "f"):
        wait_until((mount.path / "f").exists)
        time.sleep(1)  # until both are at it
        assert mount._daemon is not None
        mount._daemon.send_signal(number)
        code = mount._daemon.wait(DEADLINE)
    assert code == (-number if number is signal.SIGKILL else 0), mount.log()
    mount.clear()
    for stray in mount.path.iterdir():
        stray.unlink()  # the clients go on in the folder below
    mount.start()
    mount.close()
