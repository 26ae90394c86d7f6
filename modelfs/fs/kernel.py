"""What the daemon asks of the kernel about its own mount; never from the event loop's thread."""

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

import pyfuse3
from pyfuse3 import InodeT

from modelfs.store.tables import InodeNumber

log = logging.getLogger(__name__)

# How much the kernel reads ahead, and so how large its reads are: with its default of 128 KiB it
# sends eight requests for what could be one.
READ_AHEAD_KIB: Final = 2048


def send_dirty_pages(mountpoint: Path, paths: dict[InodeNumber, bytes]) -> list[InodeNumber]:
    """Have the kernel send what was written to files through mappings, and wait for that.

    An fsync of each, because for FUSE mounts syncfs(2) starts that and does not wait.

    Args:
        mountpoint: of this daemon.
        paths: of the files that are open for writing, from the mount's root.

    Returns:
        The files that are no longer where they were said to be.
    """
    moved = []
    for inode, path in paths.items():
        try:
            if not _fsync(os.fsencode(mountpoint) + path, inode):
                moved.append(inode)
        except (FileNotFoundError, NotADirectoryError):
            moved.append(inode)
        except OSError as exc:
            log.warning("%s: its mapped pages are not waited for: %s", os.fsdecode(path), exc)
    return moved


def _fsync(path: bytes, inode: InodeNumber) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_ino == inode
    finally:
        os.close(fd)


def take_pages(inode: InodeNumber) -> None:
    """Have the kernel send what was written to a file through mappings, and drop all its pages."""
    with contextlib.suppress(OSError):  # it has none
        pyfuse3.invalidate_inode(InodeT(inode))


def raise_read_ahead(mountpoint: Path) -> None:
    """Have the kernel read further ahead, if that is allowed; otherwise log what root can do."""
    path = None
    try:
        device = mountpoint.stat().st_dev
        path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        path.write_text(str(READ_AHEAD_KIB))
    except OSError:
        log.info("reads get faster if root does: echo %d > %s", READ_AHEAD_KIB, path)
