"""What a path means to a command."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.cli import places
from modelfs.cli.failure import Failure
from modelfs.cli.places import find_store, inside, is_dead, mount_point_of, mounted_at, mounts
from tests.support.fake_daemon import Call


class Attributes:
    """Extended attributes as a mount answers them."""

    def __init__(self, store: Path | None = None, error: int = errno.ENODATA) -> None:
        self.store = store
        self.error = error

    def __call__(self, path: Path, name: str) -> bytes:
        assert name == "user.modelfs.store"
        if self.store is None:
            raise OSError(self.error, os.strerror(self.error), str(path))
        return os.fsencode(self.store)


def test_store(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is meant by its own path, from anywhere and through symbolic links."""
    assert find_store(empty) == empty
    (empty.parent / "link").symlink_to(empty.name)
    monkeypatch.chdir(empty.parent)
    assert find_store(Path("link")) == empty


def test_place_in_a_mount(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything in a mount means its store, even a file called FORMAT."""
    monkeypatch.setattr(os, "getxattr", Attributes(empty))
    (tmp_path / "FORMAT").write_text("safetensors")
    for place in (tmp_path, tmp_path / "FORMAT"):
        assert find_store(place) == empty


def test_neither(call: Call, tmp_path: Path) -> None:
    """What is neither a store nor in a mount is refused, and what does not exist."""
    (tmp_path / "file").touch()
    for command in ("stats", "sync", "gc"):
        for place in (tmp_path, tmp_path / "file", Path("/proc")):
            assert "is neither a modelfs store nor in a modelfs mount" in call(command, place).error
        assert "does not exist" in call(command, tmp_path / "nothing").error


def test_store_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount whose store this process cannot see, as in a container, is told apart."""
    monkeypatch.setattr(os, "getxattr", Attributes(tmp_path / "elsewhere"))
    with pytest.raises(Failure, match="is not there for this process"):
        find_store(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNABORTED])
def test_dead_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Of a mount whose daemon ended, the command that clears it is told."""
    monkeypatch.setattr(os, "getxattr", Attributes(error=number))
    assert is_dead(tmp_path)
    with pytest.raises(Failure, match="daemon ended; clear it with: modelfs umount /"):
        find_store(tmp_path)


def test_not_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that may not be looked into is told with who may."""
    monkeypatch.setattr(os, "getxattr", Attributes(error=errno.EACCES))
    assert not is_dead(tmp_path)
    with pytest.raises(Failure, match="as its owner or as root"):
        find_store(tmp_path)


def test_mount_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The mount table is the kernel's; the last of several mounts at a place counts."""
    entry = mounted_at(Path("/proc"))
    assert entry is not None
    assert entry.kind == "proc"
    assert mounted_at(Path("/proc/self")) is None
    assert mount_point_of(Path("/proc/self/fd")) in {each.path for each in mounts()}
    assert places._unescape("/a\\040b\\134c") == "/a b\\c"


def test_inside() -> None:
    """A folder is inside itself, and a name that only begins alike is not."""
    assert inside(Path("/a"), Path("/a"))
    assert inside(Path("/a/b/c"), Path("/a"))
    assert not inside(Path("/ab"), Path("/a"))
    assert not inside(Path("/"), Path("/a"))
