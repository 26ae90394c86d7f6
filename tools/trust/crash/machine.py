"""The machine's side of the crash tools: root, packages, loop devices, temporary mounts.

Everything runs in mount and process namespaces of its own, made by unshare(1). When that process
ends, in any way, the kernel ends its processes, removes their mounts and frees the loop devices.
The temporary folder is left, and the process outside removes it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from tools.mounting import detach_copies

PACKAGES: Final = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
# No background initialisation and no discards: every write to the disk comes from a workload.
MKFS: Final = {
    "ext4": ["-q", "-J", "size=8", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["-q", "-K"],
    "btrfs": ["-q", "-K"],
}
UNSHARE: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
SCRATCH: Final = "MODELFS_CRASH_SCRATCH"
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a tmpfs, where a flush costs nothing


def scratch_inside(folder: Path | None) -> Path:
    """Return a scratch folder, in namespaces that end with the process.

    Outside of them, runs the same command again inside, and exits with its code.
    """
    if SCRATCH in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process outside ends this one
        detach_copies()
        return Path(os.environ[SCRATCH])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="modelfs-crash-", dir=folder or _roomy()) as scratch:
        sys.exit(_run_inside(scratch))


def _run_inside(scratch: str) -> int:
    command = [*UNSHARE, sys.executable, *sys.orig_argv[1:]]
    inside = subprocess.Popen(command, env={**os.environ, SCRATCH: scratch})
    try:
        return inside.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        inside.kill()
        inside.wait()


def _roomy() -> Path | None:
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 6 << 30 else None


def demand(systems: list[str]) -> None:
    """Check that this machine can do it; as root, install the packages that are missing."""
    if os.geteuid() != 0:
        _refuse("loop devices and mounts need root")
    for device in (Path("/dev/fuse"), Path("/dev/loop-control")):
        if not device.exists():
            _refuse(f"{device} is missing")
    missing = [PACKAGES[system] for system in systems if shutil.which(f"mkfs.{system}") is None]
    if missing:
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if shutil.which("apt-get") is None:
            _refuse(f"programs of these Debian packages are missing: {' '.join(missing)}")
        print(" ".join(install))
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], install):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def _refuse(reason: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr)
    sys.exit(2)


def make_file_system(system: str, image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    done = subprocess.run(
        [f"mkfs.{system}", *MKFS[system], image], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"mkfs.{system}: {done.stderr.strip()}")


@contextmanager
def loop_mounted(system: str, image: Path, folder: Path) -> Iterator[None]:
    """Mount an image with the machine's own file system while the block lasts.

    Raises:
        OSError: the file system refuses the image.
    """
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", system, "-o", "loop", image, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{system} itself does not mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Unmount, and try again for five seconds while processes still use the mount."""
    for _ in range(50):
        done = subprocess.run(["umount", folder], capture_output=True, text=True, check=False)
        if not done.returncode:
            return
        time.sleep(0.1)
    raise OSError(f"umount {folder}: {done.stderr.strip()}")
