"""The processes and mounts that keep a mount busy, as fuser(1) finds them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from modelfs import proc
from modelfs.mount_table import mounts

SHOWN_MAX: Final = 5


def users_of(mount_point: Path) -> str | None:
    """Return the mount below a mount point, or the other processes that use it, as text.

    None if this user can see neither.
    """
    below = [entry.path for entry in mounts() if mount_point in entry.path.parents]
    if below:
        return f"the mount at {below[-1]}"
    users = []
    for process in proc.processes():
        with contextlib.suppress(OSError):
            # This command is one of them if it was called in a folder of the mount.
            is_other = process != os.getpid()
            if is_other and any(path.is_relative_to(mount_point) for path in _used_by(process)):
                name = os.fsencode(proc.read(process, "comm"))  # it may end with half a letter
                users.append(f"{name.decode(errors='ignore').strip()} (process {process})")
    if not users:
        return None
    more = f" and {len(users) - SHOWN_MAX} more" if len(users) > SHOWN_MAX else ""
    return ", ".join(users[:SHOWN_MAX]) + more


def _used_by(process: int) -> Iterator[Path]:
    """Yield the paths that a process works in, runs, has open or has mapped."""
    folder = proc.PROC / str(process)
    for link in (folder / "cwd", folder / "root", folder / "exe", *(folder / "fd").iterdir()):
        with contextlib.suppress(OSError):
            yield link.readlink()
    for line in proc.lines(process, "maps"):
        if (start := line.find("/")) >= 0:
            yield Path(line[start:])
