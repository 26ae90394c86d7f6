"""The store of a mount, found by the attributes of the mount's files."""

import os
from pathlib import Path

import pytest

from modelfs.errors import NotAStore
from modelfs.store.create import create_store
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import FORMAT_FILE
from modelfs.store.mounted import (
    DAEMON_ATTRIBUTE,
    STORE_ATTRIBUTE,
    MountedStore,
    daemon_attribute,
    find_path,
    find_store,
    store_of_mount,
)
from modelfs.store.store import Store


def test_stores_are_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of a store, or in a mount of one, stands for the store; any other is refused."""
    (tmp_path / "link").symlink_to(folder)
    assert find_store(tmp_path / "link").path == find_path(tmp_path / "link") == folder
    with pytest.raises(NotAStore, match="neither a modelfs store nor in a modelfs mount"):
        find_store(tmp_path)
    with pytest.raises(NotAStore, match="gone does not exist"):
        find_store(tmp_path / "gone")
    store = [folder]
    monkeypatch.setattr(os, "getxattr", lambda *_: os.fsencode(store[0]))
    assert find_store(tmp_path).path == find_path(tmp_path) == folder
    store[0] = tmp_path / "elsewhere"
    with pytest.raises(NotAStore, match="elsewhere, which does not exist here"):
        find_store(tmp_path)


@pytest.mark.parametrize("forged", [b"", b"store", b"/x\0y"])
def test_an_attribute_that_a_user_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forged: bytes
) -> None:
    """A file with the attribute of mounts, and a value that no mount has, is in no mount."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: forged)
    assert store_of_mount(tmp_path) is None


def test_a_store_is_found_by_its_identity(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the path of a mount's store there may be another; the daemon's descriptor leads to it."""
    opened = Directory(folder)
    attributes = {
        STORE_ATTRIBUTE: os.fsencode(folder),
        DAEMON_ATTRIBUTE: daemon_attribute(opened),
    }
    monkeypatch.setattr(os, "getxattr", lambda _, name: attributes[name])
    assert find_store(tmp_path).path == find_path(tmp_path) == folder
    moved = folder.with_name("moved")
    folder.rename(moved)
    create_store(folder)
    link = Path(f"/proc/{os.getpid()}/fd/{opened.fd}")
    assert find_path(tmp_path) == link  # which works for other mount namespaces, too
    assert link.samefile(moved)
    assert find_store(tmp_path).path == moved
    with Store(find_store(tmp_path), read_only=True) as store:
        assert store.folder == moved
    opened.close()
    with pytest.raises(NotAStore, match="does not exist here"):
        find_store(tmp_path)
    attributes[DAEMON_ATTRIBUTE] = b"of an older version"
    assert find_store(tmp_path).path == find_path(tmp_path) == folder


@pytest.mark.parametrize("read_only", [False, True])
def test_the_found_store_stays(folder: Path, read_only: bool) -> None:
    """A store that was found is opened, also if another has its path by then."""
    found = find_store(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    create_store(folder)
    with Store(found, read_only=read_only) as store:
        assert store.folder == moved
        assert store.directory.identity == found.identity
    assert found.exists(FORMAT_FILE)  # it stays open


def test_a_store_that_is_replaced_while_it_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of a mount is refused if another takes its path before it is open."""
    attributes = {
        STORE_ATTRIBUTE: os.fsencode(folder),
        DAEMON_ATTRIBUTE: daemon_attribute(Directory(folder)),
    }
    monkeypatch.setattr(os, "getxattr", lambda _, name: attributes[name])
    find = MountedStore.find

    def replaced(mounted: MountedStore) -> Path | None:
        found = find(mounted)
        folder.rename(folder.with_name("moved"))
        create_store(folder)
        return found

    monkeypatch.setattr(MountedStore, "find", replaced)
    with pytest.raises(NotAStore, match="moved or replaced meanwhile"):
        find_store(tmp_path)
