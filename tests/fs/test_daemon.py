"""The daemon of a mount: its start, its end, and its messages to the service manager."""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyfuse3
import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT

from modelfs.errors import ModelfsError, NotAStore, StoreBusy
from modelfs.fs import daemon
from modelfs.fs.background import mapped_pages
from modelfs.fs.daemon import notify_manager, run
from modelfs.fs.mount_options import MountOptions
from modelfs.fs.requests.operations import Operations
from modelfs.jobs.check.fsck import check
from modelfs.store.folder import CONTROL_SOCKET
from modelfs.store.index.committed import CommittedRows
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.served_store import ASKED, MODE, TOP, WRITE, Counting, Failing
from tests.support.stores import content_of, new_file, new_store, noise

DATA = noise(10_000)

Session = Callable[[Operations], Awaitable[None]]


class Kernel:
    """Stands for pyfuse3's module: a mount with the requests of a test's session."""

    def __init__(self) -> None:
        self.session: Session = self.until_terminated
        self.options: set[str] = set()
        self.mountpoint = ""
        self.closed = 0
        self.begun = False
        self.terminated = trio.Event()
        self._operations: Operations | None = None

    def init(self, operations: Operations, mountpoint: str, options: set[str]) -> None:
        self._operations, self.mountpoint, self.options = operations, mountpoint, options

    async def main(self, *, max_tasks: int) -> None:
        assert self._operations is not None
        assert max_tasks > 1
        await trio.testing.wait_all_tasks_blocked()
        self.begun = True
        self._operations.init()
        await self.session(self._operations)

    def terminate(self) -> None:
        self.terminated.set()

    def close(self, *, unmount: bool) -> None:
        assert unmount
        self.closed += 1

    async def until_terminated(self, operations: Operations) -> None:
        await self.terminated.wait()


# The number of the device that is mounted.
DEVICE: Final = os.makedev(0, 99)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that mounts nothing."""
    kernel = Kernel()
    for name in ("init", "main", "terminate", "close"):
        monkeypatch.setattr(pyfuse3, name, getattr(kernel, name))
    monkeypatch.setattr(daemon, "device_of_mount", lambda mountpoint: DEVICE)
    monkeypatch.setattr(daemon, "raise_read_ahead", lambda device: None)
    monkeypatch.setattr(mapped_pages, "sync_mapped_files", lambda *_: {})
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return kernel


@pytest.fixture
def options(tmp_path: Path) -> Iterator[MountOptions]:
    """Options that mount a store; the store is sound after the test."""
    store = new_store(tmp_path)
    yield options_for(store, tmp_path)
    with Store(store) as opened:
        assert check(opened, data=True) == []


def options_for(
    store: Path,
    mountpoint: Path,
    *others: str,
    read_only: bool = False,
    allow_other: bool = False,
) -> MountOptions:
    return MountOptions(
        store=store,
        mountpoint=mountpoint,
        cache_size=1 << 20,
        read_only=read_only,
        allow_other=allow_other,
        limit=None,
        options=others,
    )


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield manager


def read_by(manager: socket.socket) -> list[bytes]:
    """Return the messages that the service manager got."""
    messages: list[bytes] = []
    while True:
        try:
            messages.append(manager.recv(4096))
        except BlockingIOError:
            return messages


async def write_file(operations: Operations, name: bytes = b"f", data: bytes = DATA) -> None:
    info, _ = await operations.create(TOP, FileNameT(name), MODE, WRITE, ASKED)
    await operations.write(info.fh, 0, data)
    await operations.release(info.fh)


def ignore_ready() -> None:
    """Ignore that the mount answers."""


@pytest.mark.parametrize(
    ("read_only", "allow_other", "others", "more"),
    [
        (False, False, (), {"fsname={store}"}),
        (True, False, (), {"fsname={store}", "ro"}),
        (False, True, (), {"fsname={store}", "allow_other"}),
        (
            True,
            True,
            ("noatime", "fsname=models"),
            {"ro", "allow_other", "noatime", "fsname=models"},
        ),
    ],
)
def test_mount_options(
    kernel: Kernel,
    options: MountOptions,
    *,
    read_only: bool,
    allow_other: bool,
    others: tuple[str, ...],
    more: set[str],
) -> None:
    """The kernel checks permissions, gets a source name, and gets the user's options."""

    async def over(operations: Operations) -> None:
        await trio.lowlevel.checkpoint()

    kernel.session = over
    wanted = options_for(
        options.store, options.mountpoint, *others, read_only=read_only, allow_other=allow_other
    )
    run(wanted, ignore_ready)
    always = {"subtype=modelfs", "default_permissions", "nosuid", "nodev"}
    assert kernel.options == always | {each.format(store=options.store) for each in more}
    assert kernel.mountpoint == str(options.mountpoint)
    assert kernel.closed == 1


def test_ready_once_the_mount_answers(
    kernel: Kernel, options: MountOptions, manager: socket.socket
) -> None:
    """`ready` is called once, after the service manager was notified."""
    messages: list[list[bytes]] = []

    def ready() -> None:
        messages.append(read_by(manager))
        kernel.terminate()

    run(options, ready)
    assert messages == [[b"READY=1"]]


def test_read_ahead_is_set_when_the_mount_began(
    kernel: Kernel, options: MountOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read-ahead is set after the kernel has set its own."""
    begun: list[bool] = []
    monkeypatch.setattr(daemon, "raise_read_ahead", lambda device: begun.append(kernel.begun))
    run(options, kernel.terminate)
    assert begun == [True]


def test_unmounting_is_durable(kernel: Kernel, options: MountOptions) -> None:
    """A file that was written right before the unmount is in the store."""
    kernel.session = write_file
    run(options, ignore_ready)
    with Store(options.store) as store:
        assert content_of(store, store.namespace.lookup(ROOT, b"f")) == DATA


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(
    kernel: Kernel,
    options: MountOptions,
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """A signal is an orderly end: mapped files are synced while there still is a mount."""
    asked: list[tuple[Path, int, bool, bool]] = []

    def send(mountpoint: Path, device: int, paths: dict[int, bytes]) -> dict[int, str]:
        on_loop = threading.current_thread() is threading.main_thread()
        asked.append((mountpoint, device, on_loop, kernel.terminated.is_set()))
        return {}

    monkeypatch.setattr(mapped_pages, "sync_mapped_files", send)
    run(options, lambda: os.kill(os.getpid(), number))
    assert asked == [(options.mountpoint, DEVICE, False, False)]
    assert read_by(manager) == [b"READY=1", b"STOPPING=1"]
    assert kernel.closed == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("at", ["init", "device_of_mount"])
def test_a_signal_during_the_start(
    kernel: Kernel, options: MountOptions, monkeypatch: pytest.MonkeyPatch, number: int, at: str
) -> None:
    """A signal that comes before the requests are served ends the daemon in order."""
    owner: object = pyfuse3 if at == "init" else daemon
    begin = getattr(owner, at)

    def begin_and_signal(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return begin(*arguments)

    monkeypatch.setattr(owner, at, begin_and_signal)
    run(options, ignore_ready)
    assert kernel.closed == 1


def test_signals_during_the_end(
    kernel: Kernel, options: MountOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further signals do not interrupt the last commit."""

    def close(*, unmount: bool) -> None:
        kernel.close(unmount=unmount)
        for number in daemon.STOP_SIGNALS:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(pyfuse3, "close", close)
    kernel.session = write_file
    run(options, ignore_ready)
    with Store(options.store) as store:
        assert content_of(store, store.namespace.lookup(ROOT, b"f")) == DATA


def test_mount_that_fails(
    kernel: Kernel, options: MountOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the mount fails, the error names the mount point, and the store is released."""
    monkeypatch.setattr(pyfuse3, "init", Failing(kernel.init, RuntimeError("fuse_session_mount")))
    with pytest.raises(ModelfsError, match=str(options.mountpoint)):
        run(options, ignore_ready)
    assert kernel.closed == 0
    Store(options.store).close()


def test_mount_of_a_user_without_a_name(
    kernel: Kernel, options: MountOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fusermount3 refuses the user; the error has the next step."""
    monkeypatch.setattr(pyfuse3, "init", Failing(kernel.init, RuntimeError("fuse_session_mount")))
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(ModelfsError, match="user 4000000 has no name, and fusermount3 needs one"):
        run(options, ignore_ready)


def test_session_that_fails(kernel: Kernel, options: MountOptions) -> None:
    """A session that breaks is unmounted, and all writes before it are durable."""

    async def broken(operations: Operations) -> None:
        await write_file(operations)
        raise OSError(5, "the session broke")

    kernel.session = broken
    with pytest.raises(OSError, match="the session broke"):
        run(options, ignore_ready)
    assert kernel.closed == 1
    with Store(options.store) as store:
        assert content_of(store, store.namespace.lookup(ROOT, b"f")) == DATA


def test_last_commit_that_fails(
    kernel: Kernel, options: MountOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the last commit fails, `run` raises the error."""

    async def on_a_full_disk(operations: Operations) -> None:
        await write_file(operations)
        monkeypatch.setattr(
            CommittedRows, "write", Failing(CommittedRows.write, OSError(28, "full"), 1, 2, 3)
        )

    kernel.session = on_a_full_disk
    with pytest.raises(OSError, match="full"):
        run(options, ignore_ready)
    monkeypatch.undo()


def test_no_store(kernel: Kernel, tmp_path: Path) -> None:
    """A folder that is no store is not mounted."""
    with pytest.raises(NotAStore):
        run(options_for(tmp_path, tmp_path), ignore_ready)
    assert kernel.options == set()


def test_store_in_use(kernel: Kernel, options: MountOptions) -> None:
    """A store that another process has open for writing is not mounted for writing."""
    with Store(options.store), pytest.raises(StoreBusy):
        run(options, ignore_ready)
    assert kernel.options == set()


def test_control_socket(kernel: Kernel, options: MountOptions) -> None:
    """The control socket answers during the mount, and is gone after it."""
    answers: list[object] = []

    async def session(operations: Operations) -> None:
        await trio.testing.wait_all_tasks_blocked()
        stream = await trio.open_unix_socket(options.store / CONTROL_SOCKET)
        async with stream:
            await stream.send_all(b'{"command": "stats"}\n')
            answers.append(json.loads(await stream.receive_some())["result"]["files"])

    kernel.session = session
    run(options, ignore_ready)
    assert answers == [0]
    assert not (options.store / CONTROL_SOCKET).exists()


def test_read_only_mount_keeps_off(kernel: Kernel, options: MountOptions) -> None:
    """A read-only mount changes nothing, and leaves the socket to the daemon that writes."""
    with Store(options.store) as store:
        new_file(store, b"f", DATA)
    socket_path = options.store / CONTROL_SOCKET
    socket_path.write_text("the other daemon's")
    before = contents(options.store)
    seen: list[int] = []

    async def session(operations: Operations) -> None:
        await trio.testing.wait_all_tasks_blocked()
        seen.append((await operations.lookup(TOP, FileNameT(b"f"), ASKED)).st_size)

    kernel.session = session
    run(options_for(options.store, options.mountpoint, read_only=True), ignore_ready)
    assert seen == [len(DATA)]
    assert contents(options.store) == before
    socket_path.unlink()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file of a folder but LMDB's table of readers."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {path: path.read_bytes() for path in paths}


# -- the service manager


def test_no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NOTIFY_SOCKET no socket is opened."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    made = Counting(socket.socket)
    monkeypatch.setattr("modelfs.fs.daemon.socket.socket", made)
    notify_manager("READY=1")
    assert made.calls == []


def test_manager(manager: socket.socket) -> None:
    """The state goes to the manager's socket in one datagram."""
    notify_manager("READY=1\nSTATUS=ready")
    assert read_by(manager) == [b"READY=1\nSTATUS=ready"]


def test_manager_at_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that begins with @ is in the abstract namespace: sd_notify(3)."""
    name = f"modelfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify_manager("STOPPING=1")
        assert read_by(manager) == [b"STOPPING=1"]


def test_manager_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service manager that does not answer is logged and not an error."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify_manager("READY=1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    caplog.clear()
