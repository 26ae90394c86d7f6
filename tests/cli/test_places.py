"""The meaning of a path on the command line."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.cli import places
from modelfs.cli.failure import Failure
from modelfs.cli.places import find_mount_point, find_store, is_dead
from modelfs.mount_table import MODELFS, MountEntry
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import identity_of
from modelfs.store.mounted import DAEMON_ATTRIBUTE, STORE_ATTRIBUTE, daemon_attribute
from tests.support.fake_daemon import Call


class Attributes:
    """Stands for getxattr(2) of files in a mount."""

    def __init__(self, store: Path | None = None, error: int = errno.ENODATA) -> None:
        self.store = store
        self.daemon = b""
        if store is not None and store.exists():
            folder = Directory(store)
            self.daemon = daemon_attribute(folder)
        self.error = error

    def __call__(self, path: Path, name: str) -> bytes:
        assert name in (STORE_ATTRIBUTE, DAEMON_ATTRIBUTE)
        if self.store is None:
            raise OSError(self.error, os.strerror(self.error), str(path))
        return os.fsencode(self.store) if name == STORE_ATTRIBUTE else self.daemon


def test_store(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a store means the store, also a relative one and through symbolic links."""
    assert find_store(empty).path == empty
    (empty.parent / "link").symlink_to(empty.name)
    monkeypatch.chdir(empty.parent)
    assert find_store(Path("link")).path == empty


def test_place_in_a_mount(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any path in a mount means its store, even a file called FORMAT."""
    monkeypatch.setattr(os, "getxattr", Attributes(empty))
    (tmp_path / "FORMAT").write_text("safetensors")
    for place in (tmp_path, tmp_path / "FORMAT"):
        assert find_store(place).path == empty


def test_neither(call: Call, tmp_path: Path) -> None:
    """A path that is missing, or neither a store nor in a mount, is refused."""
    (tmp_path / "file").touch()
    for command in ("stats", "sync", "gc"):
        for place in (tmp_path, tmp_path / "file", Path("/proc")):
            assert "is neither a modelfs store nor in a modelfs mount" in call(command, place).error
        assert "does not exist" in call(command, tmp_path / "nothing").error


def test_store_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount whose store does not exist here, as in a container, has an error of its own."""
    monkeypatch.setattr(os, "getxattr", Attributes(tmp_path / "elsewhere"))
    with pytest.raises(Failure, match="does not exist here"):
        find_store(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNABORTED])
def test_dead_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The error about a dead mount names the command that clears it."""
    monkeypatch.setattr(os, "getxattr", Attributes(error=number))
    assert is_dead(tmp_path)
    with pytest.raises(Failure, match="daemon ended; clear it with: modelfs umount /"):
        find_store(tmp_path)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about a denied path names its owner."""
    monkeypatch.setattr(os, "getxattr", Attributes(error=errno.EACCES))
    assert not is_dead(tmp_path)
    with pytest.raises(Failure, match=r"permission denied: .*owned by user"):
        find_store(tmp_path)


def test_permission_denied_to_the_store_of_a_mount(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about a mount whose store is private names the denied file and its owner."""
    monkeypatch.setattr(os, "getxattr", Attributes(empty))
    read = Directory.read

    def denied(folder: Directory, name: str) -> bytes:
        if folder.path == empty:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder.path / name))
        return read(folder, name)

    monkeypatch.setattr(Directory, "read", denied)
    with pytest.raises(Failure, match=rf"permission denied: {empty}/FORMAT \(owned by user"):
        find_store(tmp_path)


def test_mount_point_of_a_store(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount point of a store is found among dead mounts and mounts of other users."""
    answers = {
        Path("/dead"): Attributes(error=errno.ENOTCONN),
        Path("/denied"): Attributes(error=errno.EACCES),
        Path("/other"): Attributes(tmp_path / "other"),
        Path("/models"): Attributes(empty),
    }
    table = [MountEntry(path, "0:48", MODELFS) for path in answers]
    monkeypatch.setattr(os, "getxattr", lambda path, name: answers[path](path, name))
    monkeypatch.setattr(places, "mounts", lambda: table)
    assert find_mount_point(identity_of(empty)) == Path("/models")
    assert find_mount_point(identity_of(tmp_path)) is None
