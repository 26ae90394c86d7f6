"""Requests of the daemon to the kernel about its own mount.

None of them is a system call that the mount itself has to answer: see `fsync_mapped`.
"""

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pyfuse3
from pyfuse3 import InodeT

from modelfs.fs.host import fsync_mapped
from modelfs.fs.host.mount_table import mounted_at
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# How far the kernel reads ahead, which also limits the size of its reads. With its default of
# 128 KiB it sends eight requests where one of 1 MiB would do.
READ_AHEAD_KIB: Final = 2048


def sync_mapped_files(mountpoint: Path, paths: dict[InodeNumber, bytes]) -> list[InodeNumber]:
    """Make the kernel send the pages of mapped files to the daemon, and wait for that.

    Args:
        mountpoint: of this daemon.
        paths: of the files that are open for writing, from the mount's root.

    Returns:
        The files that were no longer at their paths.
    """
    if not paths:
        return []
    top = os.fsencode(mountpoint)
    done = subprocess.run(  # noqa: S603 - a program of this package
        [sys.executable, "-I", "-S", fsync_mapped.__file__],
        input=b"".join(b"%d %s%s\0" % (inode, top, path) for inode, path in paths.items()),
        capture_output=True,
        check=False,
    )
    for line in done.stderr.decode(errors="replace").splitlines():
        log.warning("fsync of a mapped file failed, its last changes may be lost: %s", line)
    if done.returncode:
        log.warning(
            "fsync of mapped files failed with exit code %d, their last changes may be lost",
            done.returncode,
        )
    return [InodeNumber(int(line)) for line in done.stdout.split()]


def drop_mapped_pages(inode: InodeNumber) -> None:
    """Make the kernel send a mapped file's changed pages, and drop all pages of the file."""
    with contextlib.suppress(OSError):  # the file has none
        pyfuse3.invalidate_inode(InodeT(inode))


def raise_read_ahead(mountpoint: Path) -> None:
    """Make the kernel read further ahead; log the command for root if that is not permitted."""
    if (mount := mounted_at(mountpoint)) is None:
        return  # unmounted already
    path = Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb")
    try:
        path.write_text(str(READ_AHEAD_KIB))
    except OSError:
        log.info("for faster reads, run as root: echo %d > %s", READ_AHEAD_KIB, path)
