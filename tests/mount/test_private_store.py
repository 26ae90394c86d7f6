"""Other users get at a store's content through its mount only."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from modelfs.cli.main import COMMANDS
from tests.support import users
from tests.support.mounts import Mount, modelfs, mounted
from tests.support.users import BOB, User, user

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user"),
]

MODULES: Final = (
    *(f"modelfs.cli.commands.{name}" for name in COMMANDS),
    *("modelfs.cli.render", "modelfs.fs.daemon"),
)
REQUESTS: Final = ("stats", "sync", "gc", "inspect", "hold")


@pytest.fixture(scope="module")
def mount(fuse: None) -> Iterator[Mount]:
    """A mount that other users may enter, of a store made and served without a umask."""
    before = os.umask(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            top = Path(folder)
            top.chmod(0o755)
            modelfs("mkfs", top / "store")
            with mounted(top / "store", top / "mnt", "--allow-other") as mount:
                (mount.path / "x").write_bytes(b"content" * 1000)
                yield mount
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def bob(mount: Mount) -> Iterator[User]:
    with user(BOB, mount.path.parent, *MODULES) as bob:
        yield bob


@pytest.fixture
def opened_up(mount: Mount) -> Iterator[Path]:
    """The store, with modes that let all users in, as a careless owner may set them."""
    socket = mount.store / "control.sock"
    mount.store.chmod(0o755)
    socket.chmod(0o666)
    yield mount.store
    socket.chmod(0o600)
    mount.store.chmod(0o700)


def forbidden(store: Path) -> dict[str, str]:
    """Return the modes, by path, that let others do anything to files of the store."""
    return {
        str(path): oct(path.lstat().st_mode)
        for path in [store, *store.rglob("*")]
        if path.lstat().st_mode & 0o077
    }


def test_files_are_private(mount: Mount) -> None:
    """No other user can access a file or folder of a store, mounted or not, for any umask."""
    assert not forbidden(mount.store)  # staged
    mount.sync()
    assert list((mount.store / "packs").iterdir())
    assert not forbidden(mount.store)
    mount.remount()
    assert not forbidden(mount.store)


def test_control_socket_out_of_reach(mount: Mount, bob: User) -> None:
    """Another user does not get to the control socket."""
    assert bob(users.ask, str(mount.store / "control.sock"), {"command": "stats"}) == "EACCES"


def test_control_socket_answers_its_owner(opened_up: Path, bob: User) -> None:
    """Another user who gets to the control socket is refused every command."""
    path = str(opened_up / "control.sock")
    for name in REQUESTS:
        answer = bob(users.ask, path, {"command": name, "inode": 1})
        assert isinstance(answer, dict)
        assert answer["errno"] == errno.EPERM
    assert "result" in users.ask(path, {"command": "stats"})


def refusal(answer: object) -> str:
    """Return the one line that a command failed with."""
    assert isinstance(answer, tuple), answer
    code, out, err = answer
    assert code in (1, 8)
    assert out == ""
    assert err.startswith("modelfs: ")
    assert err.count("\n") == 1
    return str(err)


def commands(mount: Mount) -> list[list[str]]:
    store, file = str(mount.store), str(mount.path / "x")
    on_the_store = [[name, store] for name in ("stats", "sync", "gc", "fsck")]
    return [
        *on_the_store,
        ["stats", str(mount.path)],
        ["inspect", file],
        ["inspect", "x", "--store", store],
        ["mount", store, str(mount.path.with_name("own"))],
    ]


def test_commands_of_another_user(mount: Mount, bob: User) -> None:
    """A command on another user's store fails with one line that names the permission."""
    mount.path.with_name("own").mkdir(mode=0o777)
    for command in commands(mount):
        assert "permission denied" in refusal(bob(users.command, *command))


def test_commands_where_the_folder_is_open(opened_up: Path, mount: Mount, bob: User) -> None:
    """The same where the modes of the store's folder let the user in."""
    for command in commands(mount):
        assert "permission denied" in refusal(bob(users.command, *command))
