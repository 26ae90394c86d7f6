"""Real modelfs daemons: starting, stopping, killing and checking them.

A test gets its `Mount` from a fixture of `conftest.py`, or from `mounted` if it needs its own
options. Calls go through the command line, as a user's do; only `Mount.sync`, which tests need most
often, asks the daemon itself, as the command does, and saves a start of Python.
"""

import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from modelfs.cli.client import connect
from modelfs.cli.places import find_store

MODELFS: Final = (sys.executable, "-m", "modelfs")
DEADLINE: Final = 30.0  # seconds for any one step

# The begin of the command of each daemon, such as `setpriv` with options: see
# `tools/run trust.unit_capabilities`.
PREFIX: Final = tuple(shlex.split(os.environ.get("MODELFS_TESTS_PREFIX", "")))

# Further options of each mount, such as --passthrough.
OPTIONS: Final = tuple(shlex.split(os.environ.get("MODELFS_TESTS_OPTIONS", "")))

# The systemd unit's capabilities have no CAP_SETUID: `tools/run trust.unit_capabilities`.
becomes_owner = pytest.mark.skipif(
    bool(PREFIX), reason="the daemon must be able to become the store's owner"
)
with_session_io = pytest.mark.skipif(
    importlib.util.find_spec("modelfs.fs.host._session_io") is None, reason="it is not compiled"
)
KERNEL: Final = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
with_passthrough: Final = (
    pytest.mark.skipif(KERNEL < (6, 9), reason="passthrough needs Linux 6.9"),
    pytest.mark.skipif(os.getuid() != 0, reason="passthrough needs CAP_SYS_ADMIN"),
    with_session_io,
)

CAP_SYS_ADMIN: Final = 21  # the bit of capabilities(7) that root needs to mount


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Return as soon as `condition` is true; fail if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        time.sleep(0.005)


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed within `DEADLINE`, and return its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, check=False, env=env
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def modelfs(*arguments: str | Path) -> str:
    return run(*MODELFS, *arguments)


def run_python(source: str, *arguments: str | Path) -> str:
    """Run a client's program in a process of its own, and return its output.

    A client that maps a file is killed by SIGBUS if the mount fails: that ends its process, and not
    the test run.
    """
    return run(sys.executable, "-c", textwrap.dedent(source), *arguments)


def drop_kernel_caches() -> None:
    """Make the kernel forget clean pages, names and inodes; do nothing if not root."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def fuse_problem() -> str | None:
    """Return the reason why this machine cannot mount, None if it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed"
    if os.geteuid() == 0 and not _capabilities() >> CAP_SYS_ADMIN & 1:
        return "root lacks CAP_SYS_ADMIN here"
    return None


def _capabilities() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))


class Mount:
    """A store, its mount point `path`, and its daemon."""

    def __init__(
        self,
        store: Path,
        path: Path,
        *options: str,
        log: Path | None = None,
        prefix: Sequence[str] = PREFIX,
    ) -> None:
        """Prepare a mount; `prefix` is the begin of the command, such as `setpriv`."""
        self._prefix = prefix
        self.store = store
        self.path = path
        self._options = options
        self._log = log or store.with_name(store.name + ".log")
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def start(self) -> float:
        """Mount, and return the seconds until the mount answered."""
        self.path.mkdir(exist_ok=True)
        began = time.monotonic()
        with self._log.open("ab") as log:
            daemon = subprocess.Popen(
                [
                    *(*self._prefix, *MODELFS, "mount", "--foreground", *OPTIONS),
                    *self._options,
                    *(self.store, self.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._daemon = daemon
        wait_until(lambda: os.path.ismount(self.path) or daemon.poll() is not None)
        assert daemon.poll() is None, f"the daemon died before it mounted:\n{self.log()}"
        return time.monotonic() - began

    def stop(self) -> None:
        """Unmount as a user does; the daemon must end with 0."""
        modelfs("umount", self.path)
        self.wait()

    def wait(self) -> None:
        """Wait for a daemon that was unmounted or terminated; it must end with 0."""
        assert self._daemon is not None
        code = self._daemon.wait(DEADLINE)
        self._daemon = None
        assert code == 0, f"the daemon ended with {code}:\n{self.log()}"

    def terminate(self) -> None:
        """End the daemon as a service manager does; it must end with 0."""
        assert self._daemon is not None
        self._daemon.terminate()
        self.wait()

    def kill(self, after: float = 0.0, *, clear: bool = True) -> None:
        """Kill the daemon in `after` seconds: nothing is flushed.

        The kernel keeps the dead mount, which returns ENOTCONN; `clear` removes it.
        """
        assert self._daemon is not None
        with suppress(subprocess.TimeoutExpired):
            self._daemon.wait(after)
        self._daemon.kill()
        died_of = self._daemon.wait(DEADLINE)
        self._daemon = None
        if clear:
            self.clear()
        assert died_of == -signal.SIGKILL, f"the daemon had ended with {died_of}:\n{self.log()}"

    def restart(self) -> float:
        """Mount again after a daemon ended in any way, and return the result of `start`."""
        self._abandon()
        return self.start()

    def clear(self) -> None:
        """Unmount the mounts at `path` whose daemons have died."""
        while _listed(self.path):
            subprocess.run(["fusermount3", "-u", "-z", self.path], check=True, timeout=DEADLINE)

    def remount(self, *, drop_caches: bool = False) -> None:
        self.stop()
        if drop_caches:
            drop_kernel_caches()
        self.start()

    def cool(self) -> None:
        """Sync, and make the kernel forget all clean pages."""
        self.sync()
        drop_kernel_caches()

    def distinct_bytes(self) -> int:
        """Count the bytes of all chunks, each distinct one once, before encoding."""
        return sum(form["raw_bytes"] for form in self.stats()["forms"].values())

    def sync(self) -> None:
        """Return when all written bytes are durable and in chunks."""
        with closing(find_store(self.path)) as store:
            daemon = connect(store)
            assert daemon is not None, f"no daemon:\n{self.log()}"
            with daemon:
                daemon.ask("sync")

    def stats(self) -> dict[str, Any]:
        stats = json.loads(modelfs("stats", self.path, "--json"))
        assert isinstance(stats, dict)
        return stats

    def inspect(self, path: Path) -> dict[str, Any]:
        found = json.loads(modelfs("inspect", path, "--json"))
        assert isinstance(found, dict)
        return found

    def log(self) -> str:
        """Return the last lines of the log of this store's daemons."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def fsck(self) -> None:
        """Fail unless the store, which is not mounted, is sound to the last byte."""
        modelfs("fsck", self.store, "--data")

    def close(self) -> None:
        """Unmount in any case, then check the daemon and the store."""
        try:
            if self._daemon is not None:
                self.stop()
        finally:
            self._abandon()
        self.fsck()
        assert "Traceback (most recent call last)" not in self.log(), self.log()

    def _abandon(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(DEADLINE)
            self._daemon = None
        self.clear()


def _listed(path: Path) -> bool:
    # A mount whose daemon died returns ENOTCONN, and os.path.ismount then returns False.
    return os.fsencode(f" {path} ") in Path("/proc/self/mounts").read_bytes()


@contextmanager
def mounted(store: Path, path: Path, *options: str, log: Path | None = None) -> Iterator[Mount]:
    """Mount `store` at `path`; daemon and store must be sound at the end."""
    mount = Mount(store, path, *options, log=log)
    try:
        mount.start()
        yield mount
    finally:
        mount.close()
