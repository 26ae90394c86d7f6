"""The life of a mount: its options, its one writer, and how it ends."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from modelfs.fs.host.kernel import READ_AHEAD_KIB
from tests.support.mounts import DEADLINE, MODELFS, Mount, modelfs, mounted, run, wait_until

pytestmark = pytest.mark.mount


def test_named_in_the_mount_table(mount: Mount) -> None:
    """The mount table has the store as the source of a mount."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    [source] = [line.split()[0] for line in lines if line.split()[1] == str(mount.path)]
    assert source == str(mount.store)


@pytest.mark.parametrize("name", ["\u00fc b".encode(), b"\xff", b"a,b\\c"])
@pytest.mark.parametrize("options", [(), ("-o", "fsname=m\u00fc")], ids=["store", "fsname"])
def test_any_name(
    fuse: None, store: Path, tmp_path: Path, name: bytes, options: tuple[str, ...]
) -> None:
    """A store's path may have any bytes; the mount table has them, or the `fsname` of `-o`."""
    renamed = store.rename(tmp_path / os.fsdecode(name))
    with mounted(renamed, tmp_path / "mnt", *options) as mount:
        lines = Path("/proc/self/mounts").read_bytes().splitlines()
        (source,) = [line.split()[0] for line in lines if line.split()[1] == bytes(mount.path)]
    expected = "m\u00fc".encode() if options else bytes(renamed)
    assert re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), source) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the read-ahead")
def test_read_ahead_is_raised(mount: Mount) -> None:
    """The kernel's read-ahead is the daemon's, once the mount answers."""
    device = mount.path.stat().st_dev
    folder = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
    wait_until(lambda: (folder / "read_ahead_kb").read_text() == f"{READ_AHEAD_KIB}\n")


def test_unmounting_is_durable(mount: Mount) -> None:
    """Content that was written right before an unmount is there after the next mount."""
    (mount.path / "x").write_bytes(b"x" * 3_000_000)
    mount.remount(drop_caches=True)
    assert (mount.path / "x").read_bytes() == b"x" * 3_000_000


def test_read_only(fuse: None, store: Path, tmp_path: Path) -> None:
    """A read-only mount shows files and refuses every change."""
    with mounted(store, tmp_path / "mnt") as mount:
        (mount.path / "x").write_text("x")
    with mounted(store, tmp_path / "mnt", "--read-only") as mount:
        assert (mount.path / "x").read_text() == "x"
        for change in (
            (mount.path / "y").touch,
            (mount.path / "x").unlink,
            partial((mount.path / "x").write_text, "y"),
            partial((mount.path / "x").chmod, 0o600),
        ):
            with pytest.raises(OSError, match=rf"\[Errno {errno.EROFS}\]"):
                change()


def test_one_writer(mount: Mount, tmp_path: Path) -> None:
    """A second mount of a mounted store is refused, and its error names the store."""
    other = tmp_path / "other"
    other.mkdir()
    done = subprocess.run(
        [*MODELFS, "mount", "--foreground", mount.store, other],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode != 0
    problem = f"{mount.store} is mounted at {mount.path} already"
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.ismount(other)


def test_two_stores_at_once(mount: Mount, fuse: None, tmp_path: Path) -> None:
    """Two stores are mounted side by side, and a file moves from one to the other."""
    modelfs("mkfs", tmp_path / "other")
    with mounted(tmp_path / "other", tmp_path / "other-mnt") as other:
        (mount.path / "x").write_text("x")
        run("mv", mount.path / "x", other.path / "y")
        assert (other.path / "y").read_text() == "x"
        assert os.listdir(mount.path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signals_end_it_in_order(
    fuse: None, store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM and SIGINT unmount, keep all written content, and end with 0."""
    path = tmp_path / "mnt"
    path.mkdir()
    daemon = subprocess.Popen([*MODELFS, "mount", "--foreground", store, path])
    try:
        wait_until(lambda: os.path.ismount(path) or daemon.poll() is not None)
        (path / "x").write_text("x" * 100_000)
        daemon.send_signal(number)
        assert daemon.wait(DEADLINE) == 0
        assert not os.path.ismount(path)
    finally:
        daemon.kill()
        daemon.wait(DEADLINE)
    with mounted(store, path) as mount:
        assert (mount.path / "x").read_text() == "x" * 100_000


def test_in_the_background(fuse: None, store: Path, tmp_path: Path) -> None:
    """Without --foreground the command returns when the mount is usable."""
    path = tmp_path / "mnt"
    path.mkdir()
    run(*MODELFS, "mount", store, path)
    try:
        assert os.path.ismount(path)
        (path / "x").write_text("x")
    finally:
        modelfs("umount", path)
    assert not os.path.ismount(path)
    with mounted(store, path) as mount:
        assert (mount.path / "x").read_text() == "x"


def test_cache_is_bounded(fuse: None, store: Path, tmp_path: Path) -> None:
    """The cache has the requested capacity, and keeps to it."""
    with mounted(store, tmp_path / "mnt", "--cache-size", "4MiB") as mount:
        (mount.path / "x").write_bytes(os.urandom(20_000_000))
        mount.remount(drop_caches=True)
        assert len((mount.path / "x").read_bytes()) == 20_000_000
        cache = mount.stats()["cache"]
        assert cache["capacity"] == 4 << 20
        assert cache["bytes"] <= cache["capacity"]


def test_busy_mount_is_not_torn_down(mount: Mount) -> None:
    """Unmounting while a file is open is refused, and the mount goes on."""
    with (mount.path / "x").open("w") as file:
        done = subprocess.run(
            [*MODELFS, "umount", mount.path],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        file.write("still here")
    assert (mount.path / "x").read_text() == "still here"


def test_readers_beside_the_mount(mount: Mount) -> None:
    """A mounted store answers `stats` and `inspect` by its own path and by the mount's."""
    (mount.path / "x").write_bytes(b"x" * 100)
    mount.sync()
    for place in (mount.store, mount.path):
        assert json.loads(modelfs("stats", place, "--json"))["files"] == 1


def test_sync_by_store_path(mount: Mount) -> None:
    """`modelfs sync` by the path of the store waits for the mount that has it."""
    (mount.path / "x").write_bytes(os.urandom(1_000_000))
    modelfs("sync", mount.store)
    stats = mount.stats()
    assert (stats["pending_files"], stats["staged_bytes"]) == (0, 0)


def test_mkfs_refuses_full_folders(tmp_path: Path, store: Path) -> None:
    """`modelfs mkfs` refuses a folder that holds files, a store among them."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("x")
    for place in (tmp_path / "full", store):
        done = subprocess.run(
            [*MODELFS, "mkfs", place], capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "full") == ["thesis"]
    modelfs("fsck", store, "--data")


MAPPED = """
import mmap, os, sys, time
path, size = sys.argv[1], 32 << 20
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, size)
pages = mmap.mmap(fd, size)
os.close(fd)
for at in range(0, size, 4096):
    pages[at] = 7
print("written", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["stop", "sync and kill"])
def test_mapping_that_is_still_there(mount: Mount, end: str) -> None:
    """Bytes written through a mapping are durable after SIGTERM or a sync, before its end."""
    path = mount.path / "mapped"
    with subprocess.Popen(
        [sys.executable, "-c", MAPPED, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        if end == "stop":
            mount.terminate()
        else:
            mount.sync()
            mount.kill(clear=False)
        writer.kill()
    mount.clear()
    mount.start()
    assert path.read_bytes()[::4096] == b"\7" * (32 << 20 >> 12)


def test_replace_takes_a_dead_mount_over(mount: Mount) -> None:
    """With --replace a store is mounted in place of a dead mount; without it that is an error."""
    (mount.path / "x").write_text("x")
    mount.sync()
    mount.kill(clear=False)
    done = subprocess.run(
        [*MODELFS, "mount", mount.store, mount.path],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert "--replace" in done.stderr
    modelfs("mount", "--replace", mount.store, mount.path)
    try:
        assert (mount.path / "x").read_text() == "x"
    finally:
        modelfs("umount", mount.path)
    mount.start()


def test_replace_leaves_a_live_mount_alone(mount: Mount) -> None:
    """With --replace, where a daemon answers, nothing is unmounted."""
    (mount.path / "x").write_text("x")
    done = subprocess.run(
        [*MODELFS, "mount", "--replace", mount.store, mount.path],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert f"{mount.store} is mounted at {mount.path} already" in done.stderr
    assert (mount.path / "x").read_text() == "x"


def test_limit(fuse: None, store: Path, tmp_path: Path) -> None:
    """A store with a limit is full at the limit, also for df(1), and has room after rm."""
    with mounted(store, tmp_path / "mnt", "--limit", "36MiB") as mount:
        room = os.statvfs(mount.path)
        assert room.f_blocks * room.f_frsize == 36 << 20
        # 4 MiB are the index, and 9 MiB the reserve.
        for number in range(2):
            (mount.path / f"{number}").write_bytes(os.urandom(10_000_000))
        mount.sync()
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            (mount.path / "2").write_bytes(os.urandom(10_000_000))
        (mount.path / "0").unlink()
        (mount.path / "2").unlink()
        wait_until(lambda: os.statvfs(mount.path).f_bavail * room.f_frsize > 11_000_000)
        (mount.path / "2").write_bytes(os.urandom(10_000_000))
