"""A mount behaves like a plain directory under any sequence of calls."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.mounts import Mount
from tests.support.syscalls import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    read_mapped,
    rename2,
    write_mapped,
)

pytestmark = pytest.mark.mount

# Few names and few sizes: the interesting bugs are in collisions and at chunk edges.
NAMES = st.sampled_from(["a", "b", "d", "e", "d/a", "d/b", "e/a"])
TARGETS = st.sampled_from(["a", "b", "d", "../a", "d/b", "nowhere"])
OFFSETS = st.sampled_from([0, 1, 4095, 4096, 70_000, (1 << 20) - 1, 1 << 20])
DATA = st.binary(max_size=64)
# No setgid with group execution: a write clears it, even root's, since a request has no user.
MODES = st.sampled_from([0o600, 0o444, 0o755, 0o1777, 0o2740])
KEYS = st.sampled_from(["user.a", "user.b"])
SLOTS = st.integers(0, 2)
FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_TRUNC,
        os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    ]
)

Result = TypeVar("Result")

STEPS = settings(max_examples=50, stateful_step_count=40, deadline=None)
FEW_STEPS = settings(max_examples=8, stateful_step_count=40, deadline=None)


def outcome(call: Callable[[Any], object], argument: object) -> object:
    """Return the result of a system call, or the name of its errno."""
    try:
        return call(argument)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def with_open(path: Path, flags: int, call: Callable[[int], Result]) -> Result:
    fd = os.open(path, flags, 0o644)
    try:
        return call(fd)
    finally:
        os.close(fd)


def seen(fd: int) -> tuple[object, ...]:
    """Return the fields of fstat that do not depend on the file system."""
    node = os.fstat(fd)
    if stat.S_ISDIR(node.st_mode):
        return (node.st_mode,)
    return node.st_mode, node.st_nlink, node.st_size


def entry(path: Path) -> tuple[object, ...]:
    """Return all of a name that has to be equal on both sides."""
    node = path.lstat()
    if stat.S_ISLNK(node.st_mode):
        return node.st_mode, node.st_nlink, os.readlink(path)
    attributes = {key: os.getxattr(path, key) for key in os.listxattr(path)}
    if stat.S_ISDIR(node.st_mode):
        return node.st_mode, attributes
    return node.st_mode, node.st_nlink, node.st_size, attributes, path.read_bytes()


def tree(top: Path) -> dict[Path, tuple[object, ...]]:
    return {path.relative_to(top): entry(path) for path in top.rglob("*")}


def forget_pages(top: Path) -> None:
    """Drop the clean pages of every file from the kernel's cache, so that reads are served."""
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with_open(path, os.O_RDONLY, _forget)


def _forget(fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class LikeADirectory(RuleBasedStateMachine):
    """Does the same in a plain directory and in a mount, and compares all results."""

    mount: Mount
    plain_top: Path

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.mounted = (
            Path(tempfile.mkdtemp(dir=top)) for top in (self.plain_top, self.mount.path)
        )
        self.handles: dict[int, tuple[int, int]] = {}
        self.changed = False

    def teardown(self) -> None:
        for slot in list(self.handles):
            self.close(slot)
        for top in (self.plain, self.mounted):
            shutil.rmtree(top)

    def both(self, call: Callable[[Path], object]) -> None:
        expected, got = outcome(call, self.plain), outcome(call, self.mounted)
        assert got == expected
        self.changed = True

    def both_open(self, slot: int, call: Callable[[int], object]) -> None:
        """Do the same with the descriptors in a slot, if it has any."""
        if slot in self.handles:
            plain, mounted = self.handles[slot]
            expected, got = outcome(call, plain), outcome(call, mounted)
            assert got == expected
            self.changed = True

    @initialize()
    def begin(self) -> None:
        self.both(lambda top: (top / "d").mkdir())
        self.both(lambda top: (top / "d" / "a").write_bytes(b"first"))

    # Files by name.

    @rule(name=NAMES, offset=OFFSETS, data=DATA)
    def write(self, name: str, offset: int, data: bytes) -> None:
        self.both(
            lambda top: with_open(
                top / name, os.O_WRONLY | os.O_CREAT, lambda fd: os.pwrite(fd, data, offset)
            )
        )

    @rule(name=NAMES, data=DATA)
    def append(self, name: str, data: bytes) -> None:
        self.both(
            lambda top: with_open(
                top / name, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, data)
            )
        )

    @rule(name=NAMES, size=OFFSETS)
    def truncate(self, name: str, size: int) -> None:
        self.both(lambda top: os.truncate(top / name, size))

    @rule(name=NAMES, offset=OFFSETS)
    def read(self, name: str, offset: int) -> None:
        self.both(
            lambda top: with_open(top / name, os.O_RDONLY, lambda fd: os.pread(fd, 5000, offset))
        )

    @rule(name=NAMES, offset=OFFSETS, data=DATA)
    def write_through_a_mapping(self, name: str, offset: int, data: bytes) -> None:
        self.both(
            lambda top: with_open(top / name, os.O_RDWR, lambda fd: write_mapped(fd, offset, data))
        )

    # Names.

    @rule(old=NAMES, new=NAMES, flags=st.sampled_from([0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.both(lambda top: rename2(top / old, top / new, flags))

    @rule(old=NAMES, new=NAMES)
    def link(self, old: str, new: str) -> None:
        self.both(lambda top: os.link(top / old, top / new))

    @rule(to=TARGETS, name=NAMES)
    def symlink(self, to: str, name: str) -> None:
        self.both(lambda top: os.symlink(to, top / name))

    @rule(name=NAMES)
    def mkdir(self, name: str) -> None:
        self.both(lambda top: os.mkdir(top / name))

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        self.both(lambda top: os.unlink(top / name))

    @rule(name=NAMES)
    def rmdir(self, name: str) -> None:
        self.both(lambda top: os.rmdir(top / name))

    # Metadata.

    @rule(name=NAMES, mode=MODES)
    def chmod(self, name: str, mode: int) -> None:
        self.both(lambda top: os.chmod(top / name, mode))

    @rule(name=NAMES, key=KEYS, value=DATA, flags=st.sampled_from([0, os.XATTR_CREATE]))
    def set_attribute(self, name: str, key: str, value: bytes, flags: int) -> None:
        self.both(lambda top: os.setxattr(top / name, key, value, flags))

    @rule(name=NAMES, key=KEYS)
    def remove_attribute(self, name: str, key: str) -> None:
        self.both(lambda top: os.removexattr(top / name, key))

    # Open files, with and without names.

    @rule(slot=SLOTS, name=NAMES, flags=FLAGS)
    def open(self, slot: int, name: str, flags: int) -> None:
        self.close(slot)
        plain, mounted = (
            outcome(lambda top: os.open(top / name, flags, 0o644), top)
            for top in (self.plain, self.mounted)
        )
        self.changed = True
        assert isinstance(plain, int) == isinstance(mounted, int)
        if isinstance(plain, int) and isinstance(mounted, int):
            self.handles[slot] = plain, mounted
        else:
            assert mounted == plain

    @rule(slot=SLOTS)
    def close(self, slot: int) -> None:
        for fd in self.handles.pop(slot, ()):
            os.close(fd)

    @rule(slot=SLOTS, offset=OFFSETS, data=DATA)
    def write_open(self, slot: int, offset: int, data: bytes) -> None:
        self.both_open(slot, lambda fd: os.pwrite(fd, data, offset))

    @rule(slot=SLOTS, size=OFFSETS)
    def truncate_open(self, slot: int, size: int) -> None:
        self.both_open(slot, lambda fd: os.ftruncate(fd, size))

    @rule(slot=SLOTS, offset=OFFSETS)
    def read_open(self, slot: int, offset: int) -> None:
        self.both_open(slot, lambda fd: os.pread(fd, 5000, offset))

    @rule(slot=SLOTS)
    def read_open_mapped(self, slot: int) -> None:
        self.both_open(slot, lambda fd: len(seen(fd)) > 1 and read_mapped(fd))

    @rule(slot=SLOTS, offset=OFFSETS, data=DATA)
    def write_open_mapped(self, slot: int, offset: int, data: bytes) -> None:
        self.both_open(slot, lambda fd: len(seen(fd)) > 1 and write_mapped(fd, offset, data))

    @rule(slot=SLOTS)
    def fsync_open(self, slot: int) -> None:
        self.both_open(slot, os.fsync)

    # Events on the mounted side only.

    @precondition(lambda self: self.changed)
    @rule()
    def sync(self) -> None:
        """Store everything in chunks, so that later reads come from chunks."""
        self.mount.sync()
        forget_pages(self.mounted)
        self.changed = False

    @rule()
    def forget(self) -> None:
        forget_pages(self.mounted)

    @invariant()
    def same_tree(self) -> None:
        assert tree(self.mounted) == tree(self.plain)

    @invariant()
    def same_handles(self) -> None:
        for plain, mounted in self.handles.values():
            assert seen(mounted) == seen(plain)


class LikeARemountedDirectory(LikeADirectory):
    """The same, with restarts of the daemon."""

    @precondition(lambda self: self.changed)
    @rule()
    def remount(self) -> None:
        for slot in list(self.handles):
            self.close(slot)
        self.mount.remount()
        self.changed = False


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain directory to compare with, on a file system that has attributes of users."""
    plain = tmp_path / "plain"
    plain.mkdir()
    try:
        os.setxattr(plain, "user.probe", b"")
    except OSError as exc:
        pytest.skip(f"no plain directory to compare with: {exc}")
    return plain


@pytest.mark.parametrize(
    ("machine", "steps"),
    [(LikeADirectory, STEPS), (LikeARemountedDirectory, FEW_STEPS)],
    ids=["one daemon", "many daemons"],
)
def test_like_a_directory(
    mount: Mount, plain: Path, machine: type[LikeADirectory], steps: settings
) -> None:
    """Any sequence of calls gives the same results, errnos and tree on both sides."""
    here = type("Here", (machine,), {"mount": mount, "plain_top": plain})
    run_state_machine_as_test(here, settings=steps)
