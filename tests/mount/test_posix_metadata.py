"""Modes, owners, times, extended attributes, special files and statfs on a mount."""

import errno
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import DEADLINE, Mount, drop_kernel_caches, run
from tests.support.syscalls import failing

pytestmark = pytest.mark.mount

NOBODY = 65534
SOMEBODY = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users' rights")


def as_nobody(here: Path, *command: str) -> bool:
    """Run a command in `here` as a user without rights; return whether it succeeded.

    Its paths are relative, because that user may not walk down to `here`.
    """
    done = subprocess.run(
        command,
        cwd=here,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode == 0


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o600, 0o755, 0o1777, 0o4711, 0o2755])
def test_modes(here: Path, shared_mount: Mount, mode: int) -> None:
    """A mode that is set stays set, special bits included."""
    (here / "x").touch()
    (here / "x").chmod(mode)
    shared_mount.sync()
    drop_kernel_caches()
    assert stat.S_IMODE((here / "x").stat().st_mode) == mode


def test_umask(here: Path) -> None:
    """New files and folders lack the bits of the umask."""
    with umask(0o027):
        os.close(os.open(here / "file", os.O_WRONLY | os.O_CREAT, 0o666))
        os.mkdir(here / "folder", 0o777)
        os.mkfifo(here / "fifo", 0o666)
    modes = [stat.S_IMODE((here / name).stat().st_mode) for name in ("file", "folder", "fifo")]
    assert modes == [0o640, 0o750, 0o640]


@as_root
def test_owners(here: Path) -> None:
    """Owner and group change each alone or both at once."""
    (here / "x").touch()
    seen = []
    for owner, group in ((SOMEBODY, -1), (-1, NOBODY), (0, 0)):
        os.chown(here / "x", owner, group)
        node = (here / "x").stat()
        seen.append((node.st_uid, node.st_gid))
    assert seen == [(SOMEBODY, 0), (SOMEBODY, NOBODY), (0, 0)]


@as_root
def test_owner_change_drops_special_bits(here: Path) -> None:
    """A program that gets another owner is no longer set-user-ID or set-group-ID."""
    (here / "x").touch()
    (here / "x").chmod(0o6755)
    os.chown(here / "x", SOMEBODY, SOMEBODY)
    assert stat.S_IMODE((here / "x").stat().st_mode) == 0o755


@as_root
def test_setgid_folder(here: Path) -> None:
    """A file in a set-group-ID folder gets its group; a folder there gets the bit, too."""
    (here / "top").mkdir()
    os.chown(here / "top", 0, SOMEBODY)
    (here / "top").chmod(0o2775)
    (here / "top" / "file").touch()
    (here / "top" / "folder").mkdir()
    (here / "top" / "folder" / "file").touch()
    os.symlink("file", here / "top" / "link")
    groups = {path.lstat().st_gid for path in (here / "top").rglob("*")}
    assert groups == {SOMEBODY}
    assert (here / "top" / "folder").stat().st_mode & stat.S_ISGID
    assert not (here / "top" / "file").stat().st_mode & stat.S_ISGID


@as_root
def test_sticky_folder(here: Path) -> None:
    """In a sticky folder a user may remove and rename its own files only."""
    (here / "top").mkdir()
    (here / "top").chmod(0o1777)
    (here / "top" / "roots").touch()
    assert as_nobody(here / "top", "touch", "own", "other")
    assert not as_nobody(here / "top", "rm", "-f", "roots")
    assert not as_nobody(here / "top", "mv", "roots", "taken")
    assert not as_nobody(here / "top", "mv", "own", "roots")
    assert as_nobody(here / "top", "mv", "own", "moved")
    assert as_nobody(here / "top", "rm", "other")
    assert sorted(os.listdir(here / "top")) == ["moved", "roots"]


@as_root
def test_permissions(here: Path) -> None:
    """A user reads, writes and lists what modes allow, and nothing else."""
    here.chmod(0o755)
    (here / "private").write_text("x")
    (here / "private").chmod(0o600)
    (here / "public").write_text("x")
    (here / "public").chmod(0o644)
    (here / "folder").mkdir(mode=0o700)
    assert as_nobody(here, "cat", "public")
    assert not as_nobody(here, "cat", "private")
    assert not as_nobody(here, "sh", "-c", "echo y >> public")
    assert not as_nobody(here, "touch", "new")
    assert not as_nobody(here, "ls", "folder")
    assert (here / "public").read_text() == "x"


@as_root
def test_new_files_belong_to_their_maker(here: Path) -> None:
    """A file that a user makes has that user's ids."""
    here.chmod(0o777)
    assert as_nobody(here, "touch", "x")
    assert as_nobody(here, "mkdir", "folder")
    for name in ("x", "folder"):
        node = (here / name).stat()
        assert (node.st_uid, node.st_gid) == (NOBODY, NOBODY)


def test_times_never_go_back(here: Path, shared_mount: Mount) -> None:
    """A touch, write, truncation or chmod right after another moves no time back."""
    steps: tuple[Callable[[Path], object], ...] = (
        os.utime,
        lambda path: path.write_bytes(b"content"),
        lambda path: path.chmod(0o600),
        os.utime,
        lambda path: os.truncate(path, 3),
    )
    for number in range(30):
        path = here / str(number)
        path.touch()
        before = path.stat()
        for step in steps:
            step(path)
            after = path.stat()
            assert after.st_atime_ns >= before.st_atime_ns
            assert after.st_mtime_ns >= before.st_mtime_ns
            assert after.st_ctime_ns >= before.st_ctime_ns
            before = after


@pytest.mark.parametrize("year", [-300_000, 1600, 2300, 300_000])
def test_times_out_of_range_are_clamped(here: Path, shared_mount: Mount, year: int) -> None:
    """A time before 1677 or after 2262 becomes the first or the last one, of a folder too."""
    seconds = (year - 1970) * 31_556_952
    for path in (here / "x", here):
        path.touch()
        os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
        status = path.stat()
        nearest = 9_223_372_036 * 10**9 * (1 if year > 1970 else -1)
        assert (status.st_atime_ns, status.st_mtime_ns) == (nearest, nearest)
    assert sorted(path.name for path in here.iterdir()) == ["x"]


@pytest.mark.parametrize(
    "time_ns", [0, 1, 1_700_000_000_123_456_789, 4_300_000_000_000_000_001, -1, -(10**17)]
)
def test_times_to_the_nanosecond(here: Path, shared_mount: Mount, time_ns: int) -> None:
    """Access and modification time are kept to the nanosecond, before 1970 and after 2038."""
    (here / "x").touch()
    os.utime(here / "x", ns=(time_ns + 1_000, time_ns))
    shared_mount.sync()
    drop_kernel_caches()
    node = (here / "x").stat()
    assert (node.st_atime_ns, node.st_mtime_ns) == (time_ns + 1_000, time_ns)


def test_times_of_a_symlink(here: Path) -> None:
    """A symbolic link has times of its own."""
    (here / "x").touch()
    before = (here / "x").stat().st_mtime_ns
    (here / "link").symlink_to("x")
    os.utime(here / "link", ns=(5, 7), follow_symlinks=False)
    assert (here / "link").lstat().st_mtime_ns == 7
    assert (here / "x").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "content", "status"),
    [
        (lambda path: path.write_bytes(b"new"), True, True),
        (lambda path: os.truncate(path, 1), True, True),
        (lambda path: path.chmod(0o600), False, True),
        (lambda path: os.link(path, path.with_name("link")), False, True),
        (lambda path: os.setxattr(path, "user.x", b"x"), False, True),
        (lambda path: path.rename(path.with_name("y")).rename(path), False, None),
        (lambda path: path.stat(), False, False),
    ],
    ids=["write", "truncate", "chmod", "link", "setxattr", "rename", "stat"],
)
def test_times_that_a_change_touches(
    here: Path,
    change: Callable[[Path], object],
    content: bool,
    status: bool | None,
) -> None:
    """Content changes move the modification time, any change the status time."""
    path = here / "x"
    path.write_bytes(b"content")
    os.utime(path, ns=(10**18, 10**18))
    before = path.stat()
    _tick(here)
    change(path)
    after = path.stat()
    assert (after.st_mtime_ns != before.st_mtime_ns) == content
    assert status is None or (after.st_ctime_ns != before.st_ctime_ns) == status


def _tick(here: Path) -> None:
    # File times come from a coarse clock: make files until it has moved on.
    probe = here.with_name(f"{here.name}-tick")
    probe.touch()
    first = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == first:
        probe.unlink()
        probe.touch()


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "new").touch(),
        lambda top: (top / "new").mkdir(),
        lambda top: (top / "old").unlink(),
        lambda top: (top / "old").rename(top / "new"),
        lambda top: os.link(top / "old", top / "new"),
        lambda top: (top / "new").symlink_to("old"),
    ],
    ids=["create", "mkdir", "unlink", "rename", "link", "symlink"],
)
def test_times_of_the_folder(here: Path, change: Callable[[Path], object]) -> None:
    """A name that comes or goes moves the times of its folder."""
    (here / "old").touch()
    before = here.stat()
    _tick(here)
    change(here)
    after = here.stat()
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns


def test_times_survive_a_commit(here: Path, shared_mount: Mount) -> None:
    """Cutting a file into chunks leaves its times alone."""
    (here / "x").write_bytes(bytes(range(256)) * 10_000)
    before = (here / "x").stat()
    shared_mount.sync()
    drop_kernel_caches()
    after = (here / "x").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_extended_attributes(here: Path, shared_mount: Mount, kind: str) -> None:
    """Attributes are kept byte for byte, listed, replaced and removed."""
    path = here / kind
    if kind == "file":
        path.touch()
    else:
        path.mkdir()
    values = {"user.empty": b"", "user.zeros": bytes(10), "user.long": bytes(range(256)) * 8}
    for key, value in values.items():
        os.setxattr(path, key, value)
    shared_mount.sync()
    drop_kernel_caches()
    assert {key: os.getxattr(path, key) for key in os.listxattr(path)} == values
    os.setxattr(path, "user.empty", b"full")
    os.removexattr(path, "user.zeros")
    assert os.getxattr(path, "user.empty") == b"full"
    assert sorted(os.listxattr(path)) == ["user.empty", "user.long"]


def test_refused_attributes(here: Path) -> None:
    """Creating a present attribute and replacing or removing a missing one are errors."""
    (here / "x").touch()
    os.setxattr(here / "x", "user.here", b"1", os.XATTR_CREATE)
    with failing(errno.EEXIST):
        os.setxattr(here / "x", "user.here", b"2", os.XATTR_CREATE)
    with failing(errno.ENODATA):
        os.setxattr(here / "x", "user.gone", b"2", os.XATTR_REPLACE)
    with failing(errno.ENODATA):
        os.getxattr(here / "x", "user.gone")
    with failing(errno.ENODATA):
        os.removexattr(here / "x", "user.gone")
    assert os.getxattr(here / "x", "user.here") == b"1"


def test_attributes_follow_the_inode(here: Path) -> None:
    """Attributes are the file's: seen by every link, gone with the last one."""
    (here / "a").touch()
    os.setxattr(here / "a", "user.x", b"x")
    os.link(here / "a", here / "b")
    (here / "a").unlink()
    assert os.getxattr(here / "b", "user.x") == b"x"
    (here / "b").unlink()
    (here / "b").touch()
    assert os.listxattr(here / "b") == []


def test_fifo(here: Path) -> None:
    """A fifo carries bytes from one thread to another."""
    os.mkfifo(here / "fifo")
    writer = threading.Thread(target=(here / "fifo").write_bytes, args=(b"through",))
    writer.start()
    assert (here / "fifo").read_bytes() == b"through"
    writer.join()


@as_root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
def test_device(here: Path, shared_mount: Mount, kind: int) -> None:
    """A device node keeps its type and number."""
    os.mknod(here / "device", kind | 0o600, os.makedev(240, 77_777))
    shared_mount.sync()
    drop_kernel_caches()
    node = (here / "device").stat()
    assert (node.st_mode, node.st_rdev) == (kind | 0o600, os.makedev(240, 77_777))


def test_socket(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket bound to a name on a mount is reached by that name."""
    monkeypatch.chdir(here)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        server.bind("socket")
        client.sendto(b"hello", "socket")
        assert server.recv(10) == b"hello"
    assert stat.S_ISSOCK((here / "socket").stat().st_mode)


def test_inode_numbers_stay(here: Path, shared_mount: Mount) -> None:
    """A file keeps its inode number over renames, commits and forgetting."""
    (here / "x").write_bytes(bytes(2_000_000))
    number = (here / "x").stat().st_ino
    (here / "x").rename(here / "y")
    shared_mount.sync()
    drop_kernel_caches()
    assert (here / "y").stat().st_ino == number


def test_block_count(here: Path, shared_mount: Mount) -> None:
    """A file's block count, which `du` adds up, is about its length when it has no holes."""
    (here / "x").write_bytes(os.urandom(1_000_000))
    shared_mount.sync()
    drop_kernel_caches()
    node = (here / "x").stat()
    assert 1_000_000 <= node.st_blocks * 512 <= 1_100_000
    assert node.st_blksize & (node.st_blksize - 1) == 0


def test_statfs(here: Path) -> None:
    """File system sizes are numbers that programs can count with."""
    found = os.statvfs(here)
    assert found.f_namemax == 255
    assert found.f_bsize & (found.f_bsize - 1) == 0
    assert 0 < found.f_bavail <= found.f_bfree < found.f_blocks
    assert found.f_files > 0


def test_free_space_shrinks(here: Path, shared_mount: Mount) -> None:
    """Free space is less after new bytes were written, staged or committed."""

    def free() -> int:
        found = os.statvfs(here)
        return found.f_bavail * found.f_frsize

    before = free()
    (here / "x").write_bytes(os.urandom(48_000_000))
    run("sync", "-f", str(here / "x"))
    assert before - free() > 24_000_000
    shared_mount.sync()
    assert before - free() > 24_000_000


@as_root
def test_writing_ends_setuid(here: Path) -> None:
    """Writing to, truncating or giving away a set-user-ID program clears the bit."""
    program = here / "program"
    here.chmod(0o777)
    for change in (
        lambda: as_nobody(here, "sh", "-c", "echo more >> program"),
        lambda: as_nobody(here, "truncate", "-s", "0", "program"),
        lambda: os.chown(program, NOBODY, NOBODY),
    ):
        program.write_bytes(b"old")
        program.chmod(0o6777)
        assert change() is not False
        assert stat.S_IMODE(program.stat().st_mode) == 0o777
