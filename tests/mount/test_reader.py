"""Readers in Python, beside the daemon that writes their store."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import save_file

import modelfs
from tests.support import reading
from tests.support.mounts import Mount, mounted
from tests.support.mounts import modelfs as command
from tests.support.reading import read_again, read_all
from tests.support.users import BOB, User, user
from tools.trust.reader.__main__ import run

pytestmark = pytest.mark.mount

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and be two users")

STRESS_SECONDS: Final = 6.0
ARRAYS: Final = {
    f"layer.{number}": np.random.default_rng(number).standard_normal((300, 500), np.float32)
    for number in range(6)
}


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def test_a_reader_sees_what_is_durable(mount: Mount) -> None:
    """From fsync on, or from a sync; first the bytes as they were staged, then from chunks."""
    with modelfs.open(mount.path) as store:
        assert store.folder == mount.store
        path = mount.path / "model.safetensors"
        save_file(ARRAYS, path)
        sync_file(path)
        file = store["model.safetensors"]
        for step in ("fsync", "sync", "optimize", "gc"):
            if step != "fsync":
                command(step, mount.path)
            assert file.pread() == path.read_bytes(), step
            assert file.format == "safetensors", step
            for name, tensor in file.tensors.items():
                assert np.array_equal(tensor.numpy(), ARRAYS[name]), step
        assert {form.form for form in file.report().forms} != {"staged"}
        assert store.statistics().files == 1
        path.unlink()
        command("sync", mount.path)
        assert "model.safetensors" not in store


def test_a_place_in_the_mount_stands_for_the_store(mount: Mount) -> None:
    """A folder of it, or a file: paths are from the top of the store all the same."""
    (mount.path / "folder").mkdir()
    (mount.path / "folder" / "FORMAT").write_text("not that of a store")
    command("sync", mount.path)
    for place in (mount.path, mount.path / "folder", mount.path / "folder" / "FORMAT"):
        with modelfs.open(place) as store:
            assert list(store) == ["folder/FORMAT"]


def test_the_daemon_dies_and_comes_back(mount: Mount) -> None:
    """An open reader goes on from commit to commit."""
    path = mount.path / "file"
    path.write_bytes(b"1" * 100_000)
    sync_file(path)
    with modelfs.open(mount.store) as store:
        file = store["file"]
        assert file.pread() == b"1" * 100_000
        path.write_bytes(b"2" * 50_000)
        mount.kill()
        assert file.pread() == b"1" * 100_000
        mount.restart()
        assert path.read_bytes() in (b"1" * 100_000, b"2" * 50_000)
        path.write_bytes(b"3" * 200_000)
        command("sync", mount.path)
        assert file.pread() == b"3" * 200_000
        with pytest.raises(modelfs.NotAStore):
            modelfs.open(mount.path.parent)


def test_a_dead_mount(mount: Mount) -> None:
    """Whose daemon has ended is an error of the system, and the store itself is opened."""
    (mount.path / "file").write_bytes(b"content")
    command("sync", mount.path)
    mount.kill(clear=False)
    with pytest.raises(OSError, match="Transport endpoint is not connected"):
        modelfs.open(mount.path)
    mount.clear()
    with modelfs.open(mount.store) as store:
        assert store["file"].pread() == b"content"


def test_names_that_are_not_utf8(mount: Mount) -> None:
    """Python's own functions and a reader write them alike."""
    name = os.fsdecode(b"\xff\xfe model")
    (mount.path / name).write_bytes(b"content")
    command("sync", mount.path)
    with modelfs.open(mount.store) as store:
        assert list(store) == os.listdir(mount.path) == [name]
        assert store[name].pread() == b"content"


def test_beside_a_busy_mount(fuse: None, tmp_path: Path) -> None:
    """No reader ever sees bytes that no commit had: see `tools/run trust.reader`."""
    run(tmp_path, STRESS_SECONDS)


# -- without permission to write


@pytest.fixture
def shared_store(fuse: None) -> Iterator[Path]:
    """A closed store with a file, which every user may read."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        top.chmod(0o755)
        command("mkfs", top / "store")
        with mounted(top / "store", top / "mnt") as mount:
            (mount.path / "file").write_bytes(b"content" * 1000)
            command("sync", mount.path)
        subprocess.run(["chmod", "-R", "a+rX", top / "store"], check=True)
        yield top / "store"


@pytest.fixture
def bob(shared_store: Path) -> Iterator[User]:
    with user(BOB, shared_store.parent, reading.__name__) as bob:
        yield bob


CONTENT: Final = {"file": b"content" * 1000}


@only_root
def test_a_user_who_may_read_only(shared_store: Path, bob: User) -> None:
    """He reads while no process writes; beside a daemon the error names the missing permission."""
    assert bob(read_all, "store") == bob(read_again, "store") == CONTENT
    with mounted(shared_store, shared_store.parent / "mnt"):
        for read in (read_all, read_again):
            error = bob(read, "store")
            assert isinstance(error, str)
            assert error.startswith("NoSlots: ")
            assert f"needs permission to write {shared_store}/index/lock.mdb" in error
        (shared_store / "index" / "lock.mdb").chmod(0o666)
        assert bob(read_all, "store") == CONTENT
        (shared_store / "index" / "lock.mdb").chmod(0o644)
    assert bob(read_all, "store") == bob(read_again, "store") == CONTENT
    shared_store.chmod(0o700)
    error = bob(read_all, "store")
    assert isinstance(error, str)
    assert error.startswith("PermissionError: ")


@only_root
def test_a_read_only_file_system(shared_store: Path) -> None:
    """As containers get a store: no reader keeps a daemon from starting, nor reads beside it."""
    place = shared_store.parent / "place"
    place.mkdir()
    subprocess.run(["mount", "--bind", shared_store, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        with modelfs.open(place) as store:
            assert {file.path: file.pread() for file in store.files()} == CONTENT
            with mounted(shared_store, shared_store.parent / "mnt") as mount:
                with pytest.raises(modelfs.StoreBusy, match="permission to write"):
                    store["file"]
                (mount.path / "more").write_bytes(b"more")
                command("sync", mount.path)
            assert {file.path: file.pread() for file in store.files()} == {
                **CONTENT,
                "more": b"more",
            }
    finally:
        subprocess.run(["umount", place], check=True)
