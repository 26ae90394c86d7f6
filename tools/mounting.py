"""A mount that a script makes for itself, with the command line alone, as users do."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]

Program = tuple[str, ...]
MODELFS: Final[Program] = (sys.executable, "-m", "modelfs")
# Further options of each mount, such as --passthrough.
OPTIONS: Final = tuple(shlex.split(os.environ.get("MODELFS_TOOLS_OPTIONS", "")))
DEADLINE: Final = 600.0  # seconds that a command, a mount or the end of a daemon may take


class Failed(Exception):
    """A command of modelfs failed, or a daemon."""


class Mount:
    """A store, its mountpoint `path`, and its daemon."""

    def __init__(
        self,
        store: Path,
        path: Path,
        *options: str,
        log: Path | None = None,
        program: Program = MODELFS,
    ) -> None:
        """Prepare a mount; `program` is the beginning of a command of modelfs."""
        self._program = program
        self.store = store
        self.path = path
        self._options = options
        self._log = log or store.with_name(f"{store.name}.log")
        self._daemon: subprocess.Popen[bytes] | None = None
        self._manager: socket.socket | None = None  # stands for a service manager

    @property
    def pid(self) -> int:
        assert self._daemon is not None, "not mounted"
        return self._daemon.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time of the daemon so far, without threads that have ended."""
        tasks = Path("/proc", str(self.pid), "task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def begin(self) -> None:
        """Start a daemon, and do not wait for it."""
        self.path.mkdir(exist_ok=True)
        self._forget_manager()
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.settimeout(0.05)
        self._manager.bind("")  # to an abstract address that the kernel chooses
        address = os.fsdecode(self._manager.getsockname()).replace("\0", "@")
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    *(*self._program, "mount", "--foreground", *OPTIONS, *self._options),
                    *(self.store, self.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": address},
                process_group=0,  # Ctrl-C goes to the script, which then ends the daemon
            )

    def start(self) -> float:
        """Mount, and return after how many seconds the mount answered.

        Raises:
            Failed: it does not mount.
        """
        began = time.monotonic()
        self.begin()
        assert self._daemon is not None
        while not self._is_ready():
            if self._daemon.poll() is not None or time.monotonic() > began + DEADLINE:
                raise Failed(f"the daemon does not mount:\n{self.log()}")
        self._forget_manager()
        return time.monotonic() - began

    def _forget_manager(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _is_ready(self) -> bool:
        # The mount appears a little earlier, with the kernel's own read-ahead: files that are
        # opened in between are read in requests of 128 KiB.
        assert self._manager is not None, "not begun"
        try:
            return b"READY=1" in self._manager.recv(4096)
        except TimeoutError:
            return False

    def unmount(self) -> float:
        """Unmount as a user does, and return how many seconds that took.

        Raises:
            Failed: it could not be unmounted, or the daemon did not end with 0.
        """
        began = time.monotonic()
        self._run("umount", self.path)
        self._wait()
        return time.monotonic() - began

    def terminate(self) -> float:
        """End the daemon as a service manager does, and return how many seconds that took.

        Raises:
            Failed: it did not end with 0.
        """
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        self._wait()
        return time.monotonic() - began

    def remount(self) -> None:
        """Unmount, drop the kernel's caches, and mount again."""
        self.unmount()
        drop_kernel_caches()
        self.start()

    def sync(self) -> None:
        """Run `modelfs sync`: all files become durable, and are put into chunks."""
        self._run("sync", self.path)

    def collect(self) -> None:
        """Run `modelfs gc`."""
        self._run("gc", self.path)

    def fsck(self) -> None:
        """Check every stored byte.

        Raises:
            Failed: something is damaged.
        """
        self._run("fsck", "--data", self.store)

    def finish(self) -> None:
        """Unmount, and check the store and the daemon's log.

        Raises:
            Failed: the store is not sound, or its daemons met errors.
        """
        self.unmount()
        self.fsck()
        log = self._log.read_text(errors="replace")
        if " ERROR " in log or "Traceback" in log:
            raise Failed(f"the daemon met errors:\n{self.log()}")

    def kill(self) -> None:
        """Kill the daemon, if there is one. The kernel keeps the dead mount."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def clear(self) -> None:
        """Remove the mounts of dead daemons."""
        # Such a mount answers ENOTCONN, for which Path.is_mount returns False.
        listed = os.fsencode(f" {self.path.resolve()} ")
        while listed in Path("/proc/self/mounts").read_bytes():
            subprocess.run(["fusermount3", "-u", "-z", self.path], check=True)

    def abandon(self) -> None:
        """End the daemon and the mount, in any state, without regard for the store."""
        self.kill()
        self.clear()

    def log(self) -> str:
        """Return the end of the daemons' log."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def _run(self, *words: str | Path) -> None:
        modelfs(*words, program=self._program)

    def _wait(self) -> None:
        assert self._daemon is not None, "not mounted"
        try:
            code = self._daemon.wait(DEADLINE)
        except subprocess.TimeoutExpired as exc:
            raise Failed(f"the daemon still runs after {DEADLINE:.0f} s") from exc
        self._daemon = None
        if code:
            raise Failed(f"the daemon ended with {code}:\n{self.log()}")


@contextmanager
def mounted(
    store: Path,
    path: Path,
    *options: str,
    log: Path | None = None,
    program: Program = MODELFS,
) -> Iterator[Mount]:
    """Mount a store while the block lasts; `program` is as for `Mount`.

    Raises:
        Failed: it does not mount, or its daemon did not end well.
    """
    mount = Mount(store, path, *options, log=log, program=program)
    try:
        mount.start()
        yield mount
        mount.unmount()
    finally:
        mount.abandon()


def modelfs(*words: str | Path, program: Program = MODELFS) -> str:
    """Run a command of modelfs, and return its output; `program` is the beginning of it.

    Raises:
        Failed: it failed, or took too long; the text has its output.
    """
    try:
        done = subprocess.run(
            [*program, *words], check=False, capture_output=True, text=True, timeout=DEADLINE
        )
    except subprocess.TimeoutExpired as exc:
        raise Failed(f"modelfs {words[0]} still runs after {DEADLINE:.0f} s") from exc
    if done.returncode:
        output = f"{done.stdout}{done.stderr}"
        raise Failed(f"modelfs {words[0]} ended with {done.returncode}:\n{output}")
    return done.stdout


def drop_kernel_caches() -> None:
    """Drop the kernel's clean pages, names and inodes; without root, do nothing."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def detach_copies() -> None:
    """In a new mount namespace, unmount the copies of the FUSE mounts outside.

    A copy of a mount would keep its daemon alive after its owner has unmounted it.
    """
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("fuse."):
            path = place.split()[4].encode().decode("unicode_escape")
            subprocess.run(["umount", "-i", "-l", "--", path], check=False, capture_output=True)
