"""`modelfs umount`. The daemon's side of it is in tests/mount."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from modelfs.cli.commands import umount
from modelfs.cli.daemon_process import DaemonProcess
from tests.support.fake_daemon import Call
from tests.support.mounts import DEADLINE, MODELFS, Mount, modelfs, mounted, run, wait_until

# Accepts connections at the control socket of a store, and does nothing else.
DAEMON = """
import os, signal, socket, sys
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind("new")
listener.listen()
os.rename("new", "control.sock")
signal.pause()
"""

# Fails twice, and notes each call in a file.
BUSY_TWICE = """
printf x >>{tries}
test $(wc -c <{tries}) -gt 2 && exit 0
echo umount: target is busy. >&2; exit 32
"""


def test_refusals(call: Call, empty: Path, tmp_path: Path) -> None:
    """The error about any other path names the command that lists mounts."""
    assert "does not exist; list modelfs mounts" in call("umount", tmp_path / "none").error
    assert "is not mounted; list modelfs mounts" in call("umount", tmp_path).error
    assert "is a store, not its mount point" in call("umount", empty).error
    assert "is a mount of proc, not of modelfs" in call("umount", "/proc").error


def test_place_in_a_mount(call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about a place inside a mount names the mount point."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    assert call("umount", "/proc/self/fd").error.endswith("modelfs umount /proc")


def test_tools_are_missing(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error about missing tools names them."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "is not installed; install fuse3" in call("umount", "/proc").error


def test_problem_of_the_tool(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tool's error is passed on, on one line."""
    _let_tools(tmp_path, "echo not; echo permitted >&2; exit 32", monkeypatch)
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    assert call("umount", "/proc").error == "cannot unmount /proc: permitted"


def test_waits_for_the_lock(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command returns when the daemon has released the store; a note comes if that is long."""
    _let_tools(tmp_path, "exit 0", monkeypatch)
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    monkeypatch.setattr(umount, "NOTE_SECONDS", 0.0)
    lock = _take_lock(empty)
    notes: list[str] = []

    def echo(message: str, *, err: bool) -> None:
        assert err
        notes.append(message)
        os.close(lock)

    monkeypatch.setattr(click, "echo", echo)
    assert call("umount", "/proc").code == 0
    [note] = notes
    assert "waiting until everything is on the disk" in note


def test_a_note_about_a_read_only_mount(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has nothing to write: the note is about the end of its daemon."""
    notes: list[str] = []

    class Ending(DaemonProcess):
        """A daemon that is found, and that ends when the note has come."""

        is_found = property(lambda _: True)

        def has_ended(self) -> bool:
            return bool(notes)

    _let_tools(tmp_path, "exit 0", monkeypatch)
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    monkeypatch.setattr(umount, "DaemonProcess", Ending)
    monkeypatch.setattr(umount, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(click, "echo", lambda message, err: notes.append(message))
    assert call("umount", "/proc").code == 0
    [note] = notes
    assert "unmounted; waiting until the daemon has ended (Ctrl-C" in note


def test_a_mount_that_is_busy_for_a_moment(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While no process is seen that uses the mount, it is tried again."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    monkeypatch.setattr(umount, "users_of", lambda _: None)
    monkeypatch.setattr(umount, "BUSY_SECONDS", DEADLINE)
    _let_tools(tmp_path, BUSY_TWICE.format(tries=tmp_path / "tries"), monkeypatch)
    assert call("umount", "/proc").code == 0
    assert (tmp_path / "tries").read_text() == "xxx"


def test_a_mount_that_stays_busy(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If no process is seen that uses the mount, the error names a command that sees more."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    monkeypatch.setattr(umount, "users_of", lambda _: None)
    monkeypatch.setattr(umount, "BUSY_SECONDS", 0.0)
    _let_tools(tmp_path, "echo umount: target is busy. >&2; exit 32", monkeypatch)
    assert call("umount", "/proc").error == (
        "/proc is in use by a process that this user cannot see (try: sudo fuser -vm /proc); "
        "end that, or leave the folder in it, and try again"
    )


def test_does_not_wait_for_others(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command does not wait for a process that takes the store after the daemon."""
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, empty])
    try:
        wait_until((empty / "control.sock").exists)
        # The daemon ends when it is unmounted, and another process has the lock already.
        _let_tools(tmp_path, f"kill {daemon.pid}", monkeypatch)
        monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
        lock = _take_lock(empty)
        assert call("umount", "/proc").code == 0
        os.close(lock)
    finally:
        daemon.kill()
        daemon.wait(DEADLINE)


@pytest.mark.mount
def test_read_only_mount_does_not_wait(call: Call, mount: Mount, tmp_path: Path) -> None:
    """A read-only mount is unmounted while another one has the store, too."""
    mount.stop()
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.mkdir()
        modelfs("mount", "--read-only", mount.store, path)
    writer = subprocess.run(
        [*MODELFS, "mount", mount.store, mount.path], capture_output=True, text=True, check=False
    )
    assert "is mounted at" in writer.stderr
    assert call("umount", first).code == 0
    assert not os.path.ismount(first)
    assert call("umount", second).code == 0


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a tmpfs")
@pytest.mark.parametrize("options", [[], ["--read-only"]])
def test_the_disk_of_the_store_is_free(fuse: None, tmp_path: Path, options: list[str]) -> None:
    """When the command returns, nothing keeps the store's disk from being unmounted."""
    disk, path = tmp_path / "disk", tmp_path / "mnt"
    disk.mkdir()
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk)
    try:
        modelfs("mkfs", disk / "store")
        for _ in range(3):
            modelfs("mount", *options, disk / "store", path)
            modelfs("umount", path)
            run("mount", "-o", "remount,ro", disk)
            run("mount", "-o", "remount,rw", disk)
    finally:
        run("umount", "--lazy", disk)


@pytest.mark.mount
def test_dead_mount_is_cleared(call: Call, mount: Mount) -> None:
    """The mount of a killed daemon is cleared, and the output says so."""
    (mount.path / "x").write_text("x")
    mount.kill(clear=False)
    for command in ("stats", "sync", "gc", "inspect"):
        assert "clear it with: modelfs umount" in call(command, mount.path).error
    assert "clear it first" in call("mount", mount.store, mount.path).error
    done = call("umount", mount.path)
    assert done.code == 0
    assert "whose daemon had ended" in done.out
    assert "is not mounted" in call("umount", mount.path).error


@pytest.mark.mount
@pytest.mark.parametrize(("name", "shown"), [("sleep", "sleep"), ("записьмодели", "записьм")])
def test_busy_mount_names_its_users(
    call: Call, mount: Mount, tmp_path: Path, name: str, shown: str
) -> None:
    """The error about a busy mount names the processes that use it, whatever their names are."""
    (mount.path / "x").write_text("x")
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / name)
    user = subprocess.Popen([program, "60"], cwd=mount.path)
    try:
        wait_until(lambda: Path(f"/proc/{user.pid}/comm").read_bytes()[:2] == name.encode()[:2])
        error = call("umount", mount.path).error
    finally:
        user.kill()
        user.wait()
    assert f"in use by {shown} (process {user.pid}); end that, or leave the folder in it" in error
    assert (mount.path / "x").read_text() == "x"


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root copies a mount namespace")
@pytest.mark.parametrize("read_only", [False, True])
def test_mounted_in_another_namespace(
    call: Call,
    fuse: None,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_only: bool,
) -> None:
    """The error names a process that still has the mount; the command does not wait for it."""
    monkeypatch.setattr(umount, "NOTE_SECONDS", 0.0)
    command = ["unshare", "--mount", "sh", "-c", "echo; exec sleep 60"]
    options = ["--read-only"] if read_only else []
    with (
        mounted(store, tmp_path / "mnt", *options) as mount,
        subprocess.Popen(command, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout is not None
        other.stdout.readline()
        try:
            error = call("umount", mount.path).error
            if not read_only:
                modelfs("sync", store)
        finally:
            other.kill()
        assert f"process {other.pid} still has it mounted at {mount.path}, so the daemon" in error
        assert error.endswith("unmount it there, too" if read_only else f"modelfs sync {store}")
        mount.wait()


@pytest.mark.mount
def test_inspect_in_a_mount(call: Call, mount: Mount) -> None:
    """The path of a file is enough, before and after its ingest."""
    (mount.path / "sub").mkdir()
    (mount.path / "sub" / "x").write_bytes(b"x" * 100_000)
    report = call("inspect", mount.path / "sub" / "x", "--json").json
    assert (report["path"], report["staged_bytes"]) == ("/sub/x", 100_000)
    mount.sync()
    report = call("inspect", mount.path / "sub" / "x", "--json").json
    assert (report["size"], report["staged_bytes"]) == (100_000, 0)


@pytest.mark.mount
def test_fsck_of_a_mounted_store(call: Call, mount: Mount) -> None:
    """A store can be checked while it is mounted."""
    (mount.path / "x").write_bytes(b"x" * 100_000)
    mount.sync()
    assert call("fsck", mount.store, "--data").code == 0


def _take_lock(store: Path) -> int:
    lock = os.open(store / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _let_tools(folder: Path, script: str, patch: pytest.MonkeyPatch) -> None:
    """Replace the tools that unmount by a script."""
    for name in ("umount", "fusermount3"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
