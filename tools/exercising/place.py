"""Where files are exercised: a mount of a store of its own, or any folder."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

MODELFS: Final = (sys.executable, "-m", "modelfs")
DEADLINE: Final = 120.0  # seconds that a command, or a mount, may take


class Failed(Exception):
    """A command of modelfs failed, or a daemon."""


class Folder:
    """A folder of any file system."""

    is_mount = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        pass

    def remount(self) -> None:
        pass

    def sync(self) -> None:
        os.sync()

    def collect(self) -> None:
        pass

    def finish(self) -> None:
        """Unmount, and check what is left behind."""

    def abandon(self) -> None:
        """Clean up, whatever happened."""

    def log(self) -> str:
        """Return the end of what the daemon has to say."""
        return ""


class Mount(Folder):
    """A fresh store, and the daemon that shows it."""

    is_mount = True

    def __init__(self, top: Path) -> None:
        super().__init__(top / "mnt")
        self._store = top / "store"
        self._log = top / "log"
        self._daemon: subprocess.Popen[bytes] | None = None
        self.path.mkdir()
        run("mkfs", self._store)

    def start(self) -> None:
        command: list[str | Path] = [*MODELFS, "mount", "--foreground", self._store, self.path]
        with self._log.open("ab") as log:
            # In a group of its own: Ctrl-C is for the exerciser, which then unmounts.
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        deadline = time.monotonic() + DEADLINE
        while not self.path.is_mount():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise Failed("the daemon does not mount")
            time.sleep(0.02)

    def remount(self) -> None:
        self._stop()
        self.start()

    def _stop(self) -> None:
        assert self._daemon is not None
        run("umount", self.path)
        if (code := self._daemon.wait(DEADLINE)) != 0:
            raise Failed(f"the daemon ended with {code}")
        self._daemon = None

    def sync(self) -> None:
        run("sync", self.path)

    def collect(self) -> None:
        run("gc", self.path)

    def finish(self) -> None:
        self._stop()
        run("fsck", self._store, "--data")
        log = self._log.read_text(errors="replace")
        if " ERROR " in log or "Traceback" in log:
            raise Failed("the daemon met errors")

    def abandon(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()  # nobody wants the store any more
            self._daemon.wait()
            subprocess.run(["fusermount3", "-u", "-z", self.path], check=False, capture_output=True)

    def log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])


def run(*words: str | Path) -> None:
    """Run a command of modelfs.

    Raises:
        Failed: it did, or took too long.
    """
    try:
        done = subprocess.run(
            [*MODELFS, *words],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
    except subprocess.TimeoutExpired as exc:
        raise Failed(f"modelfs {words[0]} still runs after {DEADLINE} s") from exc
    if done.returncode:
        raise Failed(f"modelfs {words[0]} ended with {done.returncode}:\n{done.stdout}")


def drop_caches() -> None:
    """Make the kernel forget clean pages, names and inodes; without root do nothing."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")
