"""`modelfs mount`: its checks, and the options that reach the daemon."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from modelfs.cli.commands import mount
from modelfs.errors import StoreBusy
from modelfs.fs.mount_options import MountOptions
from modelfs.store.create import create_store
from tests.support.fake_daemon import Call


class FakeFuse(ModuleType):
    """Stands for `modelfs.fs.daemon`."""

    def __init__(self) -> None:
        super().__init__("modelfs.fs.daemon")
        self.mounted: list[MountOptions] = []
        self.error: Exception | None = None

    def run(self, options: MountOptions, ready: Callable[[], None]) -> None:
        if self.error is not None:
            raise self.error
        self.mounted.append(options)
        ready()


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeFuse:
    """Let a mount succeed at once, and be unmounted at once."""
    made = FakeFuse()
    monkeypatch.setitem(sys.modules, "modelfs.fs.daemon", made)
    monkeypatch.setattr(mount, "FUSE_DEVICE", Path(os.devnull))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to mount at."""
    made = tmp_path / "mnt"
    made.mkdir()
    return made


def test_defaults(call: Call, fuse: FakeFuse, empty: Path, folder: Path) -> None:
    """Without options a store is mounted for writing, for its owner, with 256 MiB of cache."""
    assert call("mount", "--foreground", empty, folder).code == 0
    wanted = MountOptions(
        store=empty,
        mountpoint=folder,
        cache_size=256 << 20,
        read_only=False,
        allow_other=False,
        limit=None,
        options=(),
    )
    assert fuse.mounted == [wanted]


@pytest.mark.parametrize(
    "options",
    [
        "--read-only --allow-other --cache-size 1GiB --limit 200GB --replace -o nosuid,noatime",
        "-o ro,allow_other,nosuid,replace -o cache_size=1GiB,x-systemd.automount,limit=200GB",
        "--read-only -o rw,nosuid,allow_other,cache_size=5,limit=6 --cache-size 1GiB --limit 200GB",
    ],
)
def test_options(call: Call, fuse: FakeFuse, empty: Path, folder: Path, options: str) -> None:
    """Options may be flags, or with -o as in fstab; flags win."""
    assert call("mount", "--foreground", empty, folder, *options.split()).code == 0
    [mounted] = fuse.mounted
    assert mounted.cache_size == 1 << 30
    assert (mounted.read_only, mounted.allow_other) == (True, True)
    assert mounted.limit == 200 * 10**9
    assert mounted.options == ("nosuid",)


@pytest.mark.parametrize("limit", ["0", "1k", "8388607"])
@pytest.mark.parametrize("option", ["--limit {}", "-o limit={}"])
def test_too_small_a_limit(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, option: str, limit: str
) -> None:
    """A limit below which no file has room is wrong usage, and the error has the smallest one."""
    done = call("mount", empty, folder, *option.format(limit).split())
    assert (done.code, "give 8.00 MiB or more" in done.error) == (2, True)
    assert fuse.mounted == []


def test_paths_are_resolved(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon gets absolute paths, because it runs in another folder."""
    monkeypatch.chdir(empty.parent)
    (empty.parent / "link").symlink_to(folder)
    assert call("mount", "--foreground", empty.name, "link").code == 0
    assert (fuse.mounted[0].store, fuse.mounted[0].mountpoint) == (empty, folder)


def test_store_refusals(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, tmp_path: Path
) -> None:
    """The error about a folder that is not a store names the command that creates one."""
    missing = tmp_path / "none"
    assert (
        f"create a store there with: modelfs mkfs {missing}" in call("mount", missing, folder).error
    )
    assert (
        "is not a modelfs store; create one with: modelfs mkfs"
        in call("mount", folder, folder).error
    )
    assert fuse.mounted == []


def test_mountpoint_refusals(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about an impossible mount point names the next step."""
    (folder / "file").touch()
    other = empty.parent / "other.store"
    create_store(other)
    for place, says in (
        (folder / "none", f"create it with: mkdir -p {folder / 'none'}"),
        (folder / "file", "is not a folder"),
        (empty / "packs", "is inside the store"),
        (empty, "is inside the store"),
        (other / "staging", f"is inside the store {other}; name a folder outside of it"),
        (empty.parent, "contains the store"),
        (Path("/proc"), "is a mount of proc already; name another"),
    ):
        assert says in call("mount", empty, place).error
    assert fuse.mounted == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize("owners", [(7, 7), (0, 8)])
def test_a_mount_point_in_a_store_of_others(
    call: Call, fuse: FakeFuse, empty: Path, owners: tuple[int, int]
) -> None:
    """No store is mounted inside itself, for any owners of its folder and its format file."""
    (empty / "mnt").mkdir()
    for path, owner in zip((empty, empty / "FORMAT"), owners, strict=True):
        os.chown(path, owner, owner)
    error = call("mount", "--foreground", "--trust", empty, empty / "mnt").error
    assert error == f"{empty}/mnt is inside the store {empty}; name a folder outside of it"
    assert fuse.mounted == []


@pytest.mark.parametrize("options", [(), ("--nonempty",), ("-o", "nonempty")])
def test_a_folder_with_files(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, options: tuple[str, ...]
) -> None:
    """A mount that would hide files is refused without --nonempty."""
    (folder / "file").touch()
    done = call("mount", "--foreground", *options, empty, folder)
    if options:
        assert (done.code, len(fuse.mounted)) == (0, 1)
    else:
        assert f"{folder} has files, which the mount would hide" in done.error
        assert fuse.mounted == []


def test_mounted_already(
    call: Call, fuse: FakeFuse, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about a mounted folder names its store."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"/other.store")
    error = call("mount", empty, "/proc").error
    assert (
        error == "/other.store is mounted at /proc already; unmount it with: modelfs umount /proc"
    )


def test_dead_mountpoint(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about a dead mount names the commands that clear it."""

    def dead(path: Path, name: str) -> bytes:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

    monkeypatch.setattr(os, "getxattr", dead)
    assert "clear it first with: modelfs umount" in call("mount", empty, folder).error
    # The dead mount is not one of modelfs, so --replace leaves it alone.
    assert "mount with --replace" in call("mount", "--replace", empty, folder).error


def test_no_fuse_device(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about a missing /dev/fuse names the command that loads FUSE."""
    monkeypatch.setattr(mount, "FUSE_DEVICE", folder / "fuse")
    assert "sudo modprobe fuse" in call("mount", empty, folder).error


def test_no_pyfuse3(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about missing libraries names them."""
    monkeypatch.setitem(sys.modules, "modelfs.fs.daemon", None)
    error = call("mount", "--foreground", empty, folder).error
    assert "cannot mount without pyfuse3 and libfuse 3; install them" in error


def test_other_users(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--allow-other of a user needs a line in fuse.conf."""
    conf = empty.parent / "fuse.conf"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mount, "FUSE_CONF", conf)
    for text in (None, "# user_allow_other\n"):
        if text is not None:
            conf.write_text(text)
        error = call("mount", "--foreground", "--allow-other", empty, folder).error
        assert error == f"--allow-other needs the line user_allow_other in {conf}"
    conf.write_text("# FUSE\nuser_allow_other\n")
    # With trust: the store is another user's, if that of the tests is not 1000.
    options = ("--foreground", "--allow-other", "--trust")
    assert call("mount", *options, empty, folder).code == 0


def test_failure_in_the_foreground(call: Call, fuse: FakeFuse, empty: Path, folder: Path) -> None:
    """An error of the daemon is one line, with the next step."""
    fuse.error = StoreBusy(f"{empty} is locked by process 5")
    assert call("mount", "--foreground", empty, folder).error == (
        f"{empty} is locked by process 5; "
        "end its other use first: unmount it, or wait for the other command to end"
    )
