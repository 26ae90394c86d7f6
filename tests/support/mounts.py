"""Start, question, kill and stop a real modelfs daemon.

A test gets its `Mount` from a fixture of `conftest.py`, or from `mounted` when it needs
options of its own. Everything goes through the command line, as a user's calls do.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

MODELFS: Final = (sys.executable, "-m", "modelfs")
DEADLINE: Final = 30.0  # seconds that any one step may take

CAP_SYS_ADMIN: Final = 21  # bit of capabilities(7) that mounting as root needs


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Return as soon as `condition` holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        time.sleep(0.005)


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed within `DEADLINE`, and return what it printed."""
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
    """Run a client's program in a process of its own, and return what it printed.

    A client that maps a file dies of SIGBUS when the mount fails it: its process then
    ends, and not the test run.
    """
    return run(sys.executable, "-c", textwrap.dedent(source), *arguments)


def drop_kernel_caches() -> None:
    """Make the kernel forget clean pages, names and inodes; without root do nothing."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def fuse_problem() -> str | None:
    """Say why this machine cannot mount, or None when it can."""
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
    """A store, the folder `path` it is shown in, and the daemon that shows it."""

    def __init__(self, store: Path, path: Path, *options: str, log: Path | None = None) -> None:
        self.store = store
        self.path = path
        self._options = options
        self._log = log or store.with_name(store.name + ".log")
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def start(self) -> float:
        """Mount, and return after how many seconds the mount answered."""
        self.path.mkdir(exist_ok=True)
        began = time.monotonic()
        with self._log.open("ab") as log:
            daemon = subprocess.Popen(
                [*MODELFS, "mount", "--foreground", *self._options, self.store, self.path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._daemon = daemon
        wait_until(lambda: os.path.ismount(self.path) or daemon.poll() is not None)
        assert daemon.poll() is None, f"the daemon died before it mounted:\n{self.log()}"
        return time.monotonic() - began

    def stop(self) -> None:
        """Unmount as a user does; the daemon has to end with 0."""
        modelfs("umount", self.path)
        self.wait()

    def wait(self) -> None:
        """Wait for the daemon, which was unmounted or told to end; it has to end with 0."""
        assert self._daemon is not None
        code = self._daemon.wait(DEADLINE)
        self._daemon = None
        assert code == 0, f"the daemon ended with {code}:\n{self.log()}"

    def terminate(self) -> None:
        """End the daemon as a service manager does; it has to end with 0."""
        assert self._daemon is not None
        self._daemon.terminate()
        self.wait()

    def kill(self, after: float = 0.0, *, clear: bool = True) -> None:
        """Kill the daemon in `after` seconds: nothing is flushed.

        The kernel keeps the dead mount, which answers ENOTCONN; `clear` removes it.
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
        """Mount again after a daemon ended in whatever way, and return what `start` does."""
        self._abandon()
        return self.start()

    def clear(self) -> None:
        """Remove what dead daemons left mounted at `path`."""
        while _listed(self.path):
            subprocess.run(["fusermount3", "-u", "-z", self.path], check=True, timeout=DEADLINE)

    def remount(self, *, drop_caches: bool = False) -> None:
        self.stop()
        if drop_caches:
            drop_kernel_caches()
        self.start()

    def sync(self) -> None:
        """Return when all that was written is durable and cut into chunks."""
        modelfs("sync", self.path)

    def stats(self) -> dict[str, Any]:
        stats = json.loads(modelfs("stats", self.path, "--json"))
        assert isinstance(stats, dict)
        return stats

    def inspect(self, path: Path) -> dict[str, Any]:
        found = json.loads(modelfs("inspect", path, "--json"))
        assert isinstance(found, dict)
        return found

    def log(self) -> str:
        """Return the last lines that the daemons of this store wrote."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def fsck(self) -> None:
        """Fail unless the store, which nobody may have mounted, is sound to the last byte."""
        modelfs("fsck", self.store, "--data")

    def close(self) -> None:
        """Unmount, whatever a test left behind, then check the daemon and the store."""
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
    # A mount whose daemon died answers ENOTCONN, which os.path.ismount takes for a no.
    return f" {path} " in Path("/proc/self/mounts").read_text()


@contextmanager
def mounted(store: Path, path: Path, *options: str, log: Path | None = None) -> Iterator[Mount]:
    """Mount `store` at `path`; daemon and store have to be sound at the end."""
    mount = Mount(store, path, *options, log=log)
    try:
        mount.start()
        yield mount
    finally:
        mount.close()
