"""`modelfs mount`: what is refused before anything is tried, and what is tried."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from modelfs.cli.commands import mount as mounting
from modelfs.errors import StoreBusy
from modelfs.fs.mount_options import MountOptions
from tests.support.fake_daemon import Call


class FakeFuse(ModuleType):
    """Stands in for `modelfs.fs.daemon`."""

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
    monkeypatch.setattr(mounting, "FUSE_DEVICE", Path(os.devnull))
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
        empty,
        folder,
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
    """Options may be given as flags or with -o as in fstab; where they differ, flags count."""
    assert call("mount", "--foreground", empty, folder, *options.split()).code == 0
    [mounted] = fuse.mounted
    assert mounted.cache_size == 1 << 30
    assert (mounted.read_only, mounted.allow_other) == (True, True)
    assert mounted.limit == 200 * 10**9
    assert mounted.options == ("nosuid",)


def test_paths_are_resolved(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon gets whole paths, since it works in another folder."""
    monkeypatch.chdir(empty.parent)
    (empty.parent / "link").symlink_to(folder)
    assert call("mount", "--foreground", empty.name, "link").code == 0
    assert (fuse.mounted[0].store, fuse.mounted[0].mountpoint) == (empty, folder)


def test_store_refusals(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, tmp_path: Path
) -> None:
    """What is no store is told with what makes one."""
    missing = tmp_path / "none"
    assert f"`modelfs mkfs {missing}` makes a store there" in call("mount", missing, folder).error
    assert "is not a modelfs store; `modelfs mkfs`" in call("mount", folder, folder).error
    assert fuse.mounted == []


def test_mountpoint_refusals(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be mounted at is told with what to do about it."""
    (folder / "file").touch()
    for place, says in (
        (folder / "none", f"`mkdir -p {folder / 'none'}` makes it"),
        (folder / "file", "is not a folder"),
        (empty / "packs", "is inside the store"),
        (empty, "is inside the store"),
        (empty.parent, "the store lies in"),
        (Path("/proc"), "is a mount of proc already; name another"),
    ):
        assert says in call("mount", empty, place).error
    assert fuse.mounted == []


def test_mounted_already(
    call: Call, fuse: FakeFuse, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place where a store is mounted is told with that store."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"/other.store")
    error = call("mount", empty, "/proc").error
    assert error == ("/other.store is mounted at /proc already; to end that: modelfs umount /proc")


def test_dead_mountpoint(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead mount is to be cleared first."""

    def dead(path: Path, name: str) -> bytes:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

    monkeypatch.setattr(os, "getxattr", dead)
    assert "clear it first with: modelfs umount" in call("mount", empty, folder).error
    # What is dead there is no mount of modelfs, so that it is left alone.
    assert "mount with --replace" in call("mount", "--replace", empty, folder).error


def test_no_fuse_device(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without FUSE in the kernel, that is said."""
    monkeypatch.setattr(mounting, "FUSE_DEVICE", folder / "fuse")
    assert "as root: modprobe fuse" in call("mount", empty, folder).error


def test_no_pyfuse3(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyfuse3, that is said."""
    monkeypatch.setitem(sys.modules, "modelfs.fs.daemon", None)
    error = call("mount", "--foreground", empty, folder).error
    assert "cannot mount without pyfuse3 and libfuse 3; install them" in error


def test_other_users(
    call: Call, fuse: FakeFuse, empty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not root needs a line in fuse.conf to let others in."""
    conf = folder / "fuse.conf"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounting, "FUSE_CONF", conf)
    for text in (None, "# user_allow_other\n"):
        if text is not None:
            conf.write_text(text)
        error = call("mount", "--foreground", "--allow-other", empty, folder).error
        assert error == f"--allow-other needs the line user_allow_other in {conf}"
    conf.write_text("# FUSE\nuser_allow_other\n")
    assert call("mount", "--foreground", "--allow-other", empty, folder).code == 0


def test_failure_in_the_foreground(call: Call, fuse: FakeFuse, empty: Path, folder: Path) -> None:
    """What the daemon raises is one line, with what to do."""
    fuse.error = StoreBusy(f"{empty} is locked by process 5")
    assert call("mount", "--foreground", empty, folder).error == (
        f"{empty} is locked by process 5; unmount it first, or wait for the other command to end"
    )
