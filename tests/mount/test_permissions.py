"""Permissions between users of one mount are those of a plain directory."""

import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.support import users
from tests.support.users import ALICE, BOB, CAROL, TEAM, Ids, User, outcome, user

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users"),
]

PEOPLE: Final = (ALICE, BOB, CAROL)
WHO = st.sampled_from(PEOPLE)
NAMES = st.sampled_from(["a", "b", "d", "e", "d/a", "d/b", "e/a"])
FILE_MODES: Final = (0o000, 0o400, 0o200, 0o640, 0o660, 0o604, 0o777, 0o6755, 0o2770, 0o4644)
FOLDER_MODES: Final = (0o000, 0o700, 0o711, 0o744, 0o733, 0o770, 0o777, 0o1777, 0o2770, 0o3777)
MODES = st.sampled_from(FILE_MODES + FOLDER_MODES)
UIDS = st.sampled_from([-1, ALICE.uid, BOB.uid])
GIDS = st.sampled_from([-1, ALICE.gid, BOB.gid, TEAM])
KEYS = st.sampled_from(["user.a", "trusted.a", "security.a", "system.a", "user.", "odd"])
ACCESS = st.sampled_from([os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.X_OK])
FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_WRONLY,
        os.O_RDWR,
        os.O_RDONLY | os.O_NOATIME,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_WRONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_CREAT,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    ]
)
STEPS = settings(max_examples=40, stateful_step_count=40, deadline=None)


def entry(path: Path) -> tuple[object, ...]:
    """Return all that root sees of a name and that must be equal on both sides."""
    node = path.lstat()
    keys = sorted(os.listxattr(path, follow_symlinks=False))
    size = None if stat.S_ISDIR(node.st_mode) else node.st_size
    return stat.filemode(node.st_mode), node.st_uid, node.st_gid, size, keys


def tree(top: Path) -> dict[Path, tuple[object, ...]]:
    # Not rglob: it follows links, which /proc/sys/fs/protected_symlinks forbids even root.
    paths = [Path(folder, name) for folder, *names in os.walk(top) for name in sum(names, ["."])]
    return {path.relative_to(top): entry(path) for path in paths}


class LikeADirectory(RuleBasedStateMachine):
    """Lets users do the same in a plain directory and in a mount, and compares all results."""

    mount_top: Path
    plain_top: Path
    # The processes of each user: in the plain directory, in the mount.
    people: dict[Ids, tuple[User, User]]

    def both(self, who: Ids, call: Callable[..., object], *arguments: object) -> None:
        plain, mounted = self.people[who]
        expected, got = plain(call, *arguments), mounted(call, *arguments)
        assert got == expected

    def both_by_root(self, call: Callable[..., object], name: str, *arguments: object) -> None:
        expected = outcome(call, self.plain_top / name, *arguments)
        assert outcome(call, self.mount_top / name, *arguments) == expected

    @initialize(mode=st.sampled_from([0o777, 0o1777, 0o2777]))
    def begin(self, mode: int) -> None:
        for top in (self.plain_top, self.mount_top):
            top.chmod(mode)
        self.both(ALICE, os.mkdir, "d", 0o777)
        self.both(BOB, users.make, "d/b", 0o666)

    def teardown(self) -> None:
        for top in (self.plain_top, self.mount_top):
            for path in top.iterdir():
                is_folder = not path.is_symlink() and path.is_dir()
                shutil.rmtree(path) if is_folder else path.unlink()

    # Looking.

    @rule(who=WHO, name=NAMES, mode=ACCESS)
    def access(self, who: Ids, name: str, mode: int) -> None:
        self.both(who, os.access, name, mode)

    @rule(who=WHO, name=NAMES)
    def look(self, who: Ids, name: str) -> None:
        # The size of a folder is the file system's affair.
        plain, mounted = (each(users.look, name) for each in self.people[who])
        assert isinstance(mounted, tuple) == isinstance(plain, tuple)
        if isinstance(plain, tuple) and isinstance(mounted, tuple):
            assert mounted[:3] == plain[:3]
        else:
            assert mounted == plain

    @rule(who=WHO, name=NAMES)
    def read(self, who: Ids, name: str) -> None:
        self.both(who, users.read, name)

    @rule(who=WHO, name=NAMES)
    def listing(self, who: Ids, name: str) -> None:
        self.both(who, users.names, name)

    # Files.

    @rule(who=WHO, name=NAMES, flags=FLAGS, mode=MODES)
    def open(self, who: Ids, name: str, flags: int, mode: int) -> None:
        self.both(who, users.open_and_close, name, flags, mode)

    @rule(who=WHO, name=NAMES)
    def append(self, who: Ids, name: str) -> None:
        self.both(who, users.append, name, b"more")

    @rule(who=WHO, name=NAMES, size=st.sampled_from([0, 2, 10_000]))
    def truncate(self, who: Ids, name: str, size: int) -> None:
        self.both(who, os.truncate, name, size)

    # Names.

    @rule(who=WHO, name=NAMES, mode=MODES)
    def mkdir(self, who: Ids, name: str, mode: int) -> None:
        self.both(who, os.mkdir, name, mode)

    @rule(who=WHO, name=NAMES, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFREG]))
    def mknod(self, who: Ids, name: str, kind: int) -> None:
        self.both(who, os.mknod, name, kind | 0o640, os.makedev(1, 3))

    @rule(who=WHO, to=NAMES, name=NAMES)
    def symlink(self, who: Ids, to: str, name: str) -> None:
        self.both(who, os.symlink, to, name)

    @rule(who=WHO, old=NAMES, new=NAMES)
    def link(self, who: Ids, old: str, new: str) -> None:
        self.both(who, users.link, old, new)

    @rule(who=WHO, old=NAMES, new=NAMES)
    def rename(self, who: Ids, old: str, new: str) -> None:
        self.both(who, os.rename, old, new)

    @rule(who=WHO, name=NAMES)
    def unlink(self, who: Ids, name: str) -> None:
        self.both(who, os.unlink, name)

    @rule(who=WHO, name=NAMES)
    def rmdir(self, who: Ids, name: str) -> None:
        self.both(who, os.rmdir, name)

    # Metadata.

    @rule(who=WHO, name=NAMES, mode=MODES)
    def chmod(self, who: Ids, name: str, mode: int) -> None:
        self.both(who, os.chmod, name, mode)

    @rule(who=WHO, name=NAMES, uid=UIDS, gid=GIDS)
    def chown(self, who: Ids, name: str, uid: int, gid: int) -> None:
        self.both(who, os.lchown, name, uid, gid)

    @rule(who=WHO, name=NAMES, call=st.sampled_from([users.touch_now, users.set_times]))
    def utime(self, who: Ids, name: str, call: Callable[[str], None]) -> None:
        self.both(who, call, name)

    @rule(who=WHO, name=NAMES, key=KEYS)
    def set_attribute(self, who: Ids, name: str, key: str) -> None:
        self.both(who, os.setxattr, name, key, b"value")

    @rule(who=WHO, name=NAMES, key=KEYS)
    def get_attribute(self, who: Ids, name: str, key: str) -> None:
        self.both(who, os.getxattr, name, key)

    @rule(who=WHO, name=NAMES, key=KEYS)
    def remove_attribute(self, who: Ids, name: str, key: str) -> None:
        self.both(who, os.removexattr, name, key)

    @rule(who=WHO, name=NAMES)
    def list_attributes(self, who: Ids, name: str) -> None:
        self.both(who, users.attributes, name)

    # Set up by root.

    @rule(name=NAMES, mode=MODES)
    def chmod_by_root(self, name: str, mode: int) -> None:
        self.both_by_root(os.chmod, name, mode)

    @rule(name=NAMES, uid=UIDS, gid=GIDS)
    def chown_by_root(self, name: str, uid: int, gid: int) -> None:
        self.both_by_root(os.lchown, name, uid, gid)

    @rule(name=NAMES, key=KEYS)
    def set_attribute_by_root(self, name: str, key: str) -> None:
        self.both_by_root(os.setxattr, name, key, b"root's")

    @invariant()
    def same_tree(self) -> None:
        assert tree(self.mount_top) == tree(self.plain_top)


@pytest.fixture
def plain() -> Iterator[Path]:
    """A plain directory to compare with, on a file system that has attributes of users."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.setxattr(folder, "user.probe", b"")
            os.removexattr(folder, "user.probe")
        except OSError as exc:
            pytest.skip(f"no plain directory to compare with: {exc}")
        yield Path(folder)


@pytest.fixture
def people(plain: Path, here: Path) -> Iterator[dict[Ids, tuple[User, User]]]:
    """Three users, each with a process in the plain directory and one in the mount."""
    with ExitStack() as stack:
        yield {
            ids: (
                stack.enter_context(user(ids, plain)),
                stack.enter_context(user(ids, here)),
            )
            for ids in PEOPLE
        }


def test_like_a_directory(here: Path, plain: Path, people: dict[Ids, tuple[User, User]]) -> None:
    """Calls of users have the same results, errnos and tree on both sides."""
    attributes = {"mount_top": here, "plain_top": plain, "people": people}
    machine = type("Here", (LikeADirectory,), attributes)
    run_state_machine_as_test(machine, settings=STEPS)


def test_trusted_attributes_are_roots(here: Path) -> None:
    """Attributes for root are neither listed to users nor read or changed by them."""
    (here / "x").touch()
    (here / "x").chmod(0o666)
    for key in ("trusted.a", "user.a"):
        os.setxattr(here / "x", key, b"root's")
    with user(ALICE, here) as alice:
        assert alice(users.attributes, "x") == ["user.a"]
        assert alice(os.getxattr, "x", "trusted.a") == "ENODATA"
        assert alice(os.setxattr, "x", "trusted.a", b"hers") == "EPERM"
        assert alice(os.removexattr, "x", "trusted.a") == "EPERM"
    assert os.getxattr(here / "x", "trusted.a") == b"root's"


def test_writing_ends_capabilities(here: Path) -> None:
    """A write to a program removes its file capabilities."""
    program = here / "x"
    program.touch()
    program.chmod(0o777)
    effective, net_raw = 0x0200_0001, 1 << 13
    os.setxattr(program, "security.capability", struct.pack("<5I", effective, net_raw, 0, 0, 0))
    with user(BOB, here) as bob:
        assert bob(users.append, "x", b"more") == 4
    assert os.listxattr(program) == []
