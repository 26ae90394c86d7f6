"""Requests of the daemon to the kernel about its own mount.

None of them is a system call that the mount itself has to answer: see `fsync_mapped`.
"""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from modelfs.fs.host import fsync_mapped
from modelfs.mount_table import mounted_at
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# How far the kernel reads ahead, which also limits the size of its reads. With its default of
# 128 KiB it sends eight requests where one of 1 MiB would do.
READ_AHEAD_KIB: Final = 2048


def sync_mapped_files(
    mountpoint: Path, device: int, paths: dict[InodeNumber, bytes]
) -> dict[InodeNumber, str]:
    """Make the kernel send the pages of mapped files to the daemon, and wait for that.

    Args:
        mountpoint: of this daemon.
        device: of the mount, as `device_of_mount` returned it when the mount was made.
        paths: of the files that are open for writing, from the mount's root.

    Returns:
        The files for which that failed, and the reasons: `MOVED`, or a text.
    """
    if not paths:
        return {}
    try:
        done = subprocess.run(  # noqa: S603 - a program of this package
            [sys.executable, "-I", "-S", fsync_mapped.__file__, mountpoint, str(device)],
            input=b"".join(b"%d %s\0" % (inode, path) for inode, path in paths.items()),
            capture_output=True,
            check=False,
        )
    except OSError as exc:
        return dict.fromkeys(paths, f"{sys.executable} cannot be started: {exc.strerror}")
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return dict.fromkeys(paths, reason or f"exit code {done.returncode}")
    problems = (line.partition(" ") for line in done.stdout.decode().splitlines())
    return {InodeNumber(int(inode)): reason for inode, _, reason in problems}


def device_of_mount(mountpoint: Path) -> int:
    """Return the number of the device that is mounted at a path, as `st_dev` has it.

    To be called right after the mount was made, before another one can lie over it.

    Raises:
        OSError: nothing is mounted there, or not visibly.
    """
    if (mount := mounted_at(mountpoint)) is None:
        raise OSError(errno.ENODEV, f"{mountpoint} is not in the mount table")
    major, _, minor = mount.device.partition(":")
    return os.makedev(int(major), int(minor))


def raise_read_ahead(device: int) -> None:
    """Make the kernel read further ahead; log the command for root if that is not permitted."""
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        path.write_text(str(READ_AHEAD_KIB))
    except OSError:
        log.info("for faster reads, run as root: echo %d > %s", READ_AHEAD_KIB, path)
