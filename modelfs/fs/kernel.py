"""What the daemon asks of the kernel about its own mount; never from the event loop's thread."""

import logging
import os
import subprocess
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

# How much the kernel reads ahead, and so how large its reads are. With its default of 128 KiB a
# first read is half as fast: tools/bench_read.py.
READ_AHEAD_KIB: Final = 2048


def send_dirty_pages(mountpoint: Path) -> None:
    """Have the kernel send the pages that were written through mappings, and wait for that."""
    # sync(1), because pyfuse3.syncfs holds the interpreter's lock and so would wait for itself.
    subprocess.run(["sync", "-f", str(mountpoint)], check=False)  # noqa: S603, S607


def raise_read_ahead(mountpoint: Path) -> None:
    """Have the kernel read further ahead, if that is allowed; otherwise log what root can do."""
    device = mountpoint.stat().st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        path.write_text(str(READ_AHEAD_KIB))
    except OSError:
        log.info("reads get faster if root does: echo %d > %s", READ_AHEAD_KIB, path)
