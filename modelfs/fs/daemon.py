"""The daemon: serves one mount, from opening the store to the last durable byte.

The store is opened, the file system is mounted, and `ready` is called when the kernel has answered.
An unmount, SIGTERM, SIGINT or SIGHUP ends the daemon. On a signal the kernel is first made to send
the pages of mapped files, which an unmount does by itself. Then the file system is unmounted, the
background jobs are cancelled, and everything is flushed and committed.
"""

import contextlib
import errno
import faulthandler
import logging
import os
import pwd
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.control import Control
from modelfs.fs.handles import Handles
from modelfs.fs.host.kernel import device_of_mount, raise_read_ahead
from modelfs.fs.host.malloc import keep_heap
from modelfs.fs.host.signals import received
from modelfs.fs.mount_options import MountOptions
from modelfs.fs.requests.changes import SyncOptions
from modelfs.fs.requests.operations import Operations
from modelfs.fs.requests.reader import Reader
from modelfs.fs.requests.writer import Writer
from modelfs.fs.watchdog import Watchdog
from modelfs.store.disk.descriptors import raise_limit
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# Threads that read, decode, write and sync for the event loop.
WORKERS: Final = 8
# How long a computing thread may keep Python's lock when the event loop wakes up. Beside a busy
# thread the loop waited a median of 1.2 ms for the lock, and of 5.1 ms with Python's own 5 ms.
SWITCH_SECONDS: Final = 0.001
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Requests answered at the same time; each may need a buffer of 1 MiB.
REQUESTS_MAX: Final = 64


def run(options: MountOptions, ready: Callable[[], None]) -> None:
    """Serve a store at a mount point until it is unmounted or a signal ends the daemon.

    Args:
        options: of the mount.
        ready: called once, when the mount answers.

    Raises:
        ModelfsError: the store cannot be opened or mounted, or the last changes cannot be made
            durable.
        OSError: the same, because of the backing disk.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    # A page of the index that is damaged while it is mounted ends the process. Then the log has
    # the signal and the calls that led to it; the next mount checks all pages, and is refused.
    with contextlib.suppress(ValueError, OSError):  # stderr is closed
        faulthandler.enable(2, all_threads=False)
    keep_heap()
    raise_limit()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        _serve(options, ready)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _serve(options: MountOptions, ready: Callable[[], None]) -> None:
    store = Store(
        options.store,
        read_only=options.read_only,
        exclude_writers=options.read_only,
        cache_size=options.cache_size,
        limit=options.limit,
        trust=options.trust,
    )
    with store:
        try:
            trio.run(_Daemon(store, options, ready).serve, instruments=[Watchdog()])
        except BaseExceptionGroup as group:
            # The task that failed first is the reason; all others were cancelled because of it.
            raise group.exceptions[0] from group


class _Daemon:
    """The parts of a running daemon."""

    def __init__(self, store: Store, options: MountOptions, ready: Callable[[], None]) -> None:
        self._store = store
        self._options = options
        self._ready = ready
        self._workers = trio.CapacityLimiter(WORKERS)
        self._handles = Handles()
        self._background = Scheduler(store, self._handles, self._workers, options.mountpoint)
        self._failure: OSError | None = None  # why the end is not a clean one

    async def serve(self) -> None:
        """Mount, answer requests until the mount ends, and make everything durable.

        During the end, signals have no effect.
        """
        numbers = list(STOP_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup(1) has started the daemon
            numbers.remove(signal.SIGHUP)
        with received(numbers) as signals:
            await self._serve(signals)
        if self._failure is not None:
            raise self._failure

    async def _serve(self, signals: AsyncIterator[int]) -> None:
        mountpoint = self._options.mountpoint
        async with trio.open_nursery() as nursery:
            reader = Reader(self._store.contents, self._workers, nursery, self._options.cache_size)
            writer = Writer(self._store.writes, self._workers)
            operations = Operations(
                self._store,
                self._handles,
                self._background,
                reader,
                writer,
                sync=SyncOptions(self._options.commits_names, self._options.is_sync),
            )
            try:
                pyfuse3.init(operations, str(mountpoint), self._options.for_kernel())
            except RuntimeError as exc:
                problem = f"cannot mount at {mountpoint}: {exc}{_next_step_of(os.getuid())}"
                raise ModelfsError(problem) from exc
            try:
                await self._serve_requests(nursery, operations, signals)
            finally:
                with trio.CancelScope(shield=True):
                    pyfuse3.close(unmount=True)
                    if not self._store.read_only:
                        await self._background.finish(clean=self._failure is None)
                    log.info("unmounted %s", mountpoint)

    async def _serve_requests(
        self, nursery: trio.Nursery, operations: Operations, signals: AsyncIterator[int]
    ) -> None:
        device = _device_of(self._options.mountpoint)
        self._background.mapped_pages.mounted(device)
        nursery.start_soon(self._stop_on_signal, signals)
        nursery.start_soon(self._announce, operations, device)
        if not self._store.read_only:
            background = self._background
            background.start()
            await background.mark_in_use()
            nursery.start_soon(background.run)
            control = Control(self._store, background, self._workers)
            nursery.start_soon(control.serve)
        await pyfuse3.main(max_tasks=REQUESTS_MAX)
        nursery.cancel_scope.cancel()

    async def _announce(self, operations: Operations, device: int | None) -> None:
        """Report that the mount answers, after the kernel's read-ahead is set."""
        # The kernel resets the read-ahead when a mount begins, so it is set after that.
        await operations.begun.wait()
        if operations.passthrough.begin():
            self._background.hot.begin(self._options.hot_size)
        if device is not None:
            await trio.to_thread.run_sync(raise_read_ahead, device)
        notify_manager("READY=1")
        log.info("mounted %s at %s", self._store.folder, self._options.mountpoint)
        self._ready()

    async def _stop_on_signal(self, signals: AsyncIterator[int]) -> None:
        """End the mount at a signal. A second one ends the wait for pages of mapped files."""
        await anext(signals)
        notify_manager("STOPPING=1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_mapped_pages, nursery.cancel_scope)
            await anext(signals)
            self._failure = OSError(errno.EINTR, "pages of mapped files did not come in time")
            nursery.cancel_scope.cancel()
        self._background.mapped_pages.stop()
        self._background.shortage.stop_waiting()
        pyfuse3.terminate()

    async def _receive_mapped_pages(self, scope: trio.CancelScope) -> None:
        try:
            with self._background.shortage.urgent():
                await self._background.mapped_pages.sync_all()
        except OSError as exc:
            log.error("%s", exc)
            self._failure = exc
        scope.cancel()


def _next_step_of(user: int) -> str:
    """Return how a user without a name can mount, as there are in containers; "" for any other."""
    try:
        pwd.getpwuid(user)
    except KeyError:
        problem = f"; user {user} has no name, and fusermount3 needs one: "
        return problem + "add the user to /etc/passwd, or mount as another user"
    return ""


def _device_of(mountpoint: Path) -> int | None:
    try:
        return device_of_mount(mountpoint)
    except OSError as exc:
        log.warning("the mount table does not show the mount: %s", exc)
        return None


def notify_manager(state: str) -> None:
    """Send a state to the service manager, if there is one: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        try:
            manager.connect(address)
            manager.sendall(state.encode())
        except OSError as exc:
            log.warning("cannot notify the service manager (%s): %s", state.partition("\n")[0], exc)
