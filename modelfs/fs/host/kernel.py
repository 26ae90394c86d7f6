"""What the daemon asks of the kernel about its own mount.

Never by a system call that the mount itself has to answer: see `dirty_pages`.
"""

import contextlib
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pyfuse3
from pyfuse3 import InodeT

from modelfs.fs.host import fsync_mapped as dirty_pages
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# How much the kernel reads ahead, and so how large its reads are: with its default of 128 KiB it
# sends eight requests for what could be one.
READ_AHEAD_KIB: Final = 2048


def sync_mapped_files(mountpoint: Path, paths: dict[InodeNumber, bytes]) -> list[InodeNumber]:
    """Have the kernel send what was written to files through mappings, and wait for that.

    Args:
        mountpoint: of this daemon.
        paths: of the files that are open for writing, from the mount's root.

    Returns:
        The files that are no longer where they were said to be.
    """
    if not paths:
        return []
    top = os.fsencode(mountpoint)
    done = subprocess.run(  # noqa: S603 - a program of this package
        [sys.executable, "-I", "-S", dirty_pages.__file__],
        input=b"".join(b"%d %s%s\0" % (inode, top, path) for inode, path in paths.items()),
        capture_output=True,
        check=False,
    )
    for line in done.stderr.decode(errors="replace").splitlines():
        log.warning("mapped pages are not waited for: %s", line)
    if done.returncode:
        log.warning("mapped pages are not waited for: exit code %d", done.returncode)
    return [InodeNumber(int(line)) for line in done.stdout.split()]


def drop_mapped_pages(inode: InodeNumber) -> None:
    """Have the kernel send what was written to a file through mappings, and drop all its pages."""
    with contextlib.suppress(OSError):  # it has none
        pyfuse3.invalidate_inode(InodeT(inode))


def raise_read_ahead(mountpoint: Path) -> None:
    """Have the kernel read further ahead, if that is allowed; otherwise log what root can do."""
    path = Path(f"/sys/class/bdi/{_device(mountpoint)}/read_ahead_kb")
    try:
        path.write_text(str(READ_AHEAD_KIB))
    except OSError:
        log.info("reads get faster if root does: echo %d > %s", READ_AHEAD_KIB, path)


def _device(mountpoint: Path) -> str:
    """Return the MAJOR:MINOR of what was mounted there last: see proc_pid_mountinfo(5)."""
    device = ""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        _, _, numbers, _, place, *_ = line.split(b" ")
        if _unescaped(place) == os.fsencode(mountpoint):
            device = numbers.decode()
    return device


def _unescaped(place: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), place)
