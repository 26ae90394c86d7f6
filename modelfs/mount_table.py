"""The kernel's mount table: proc_pid_mountinfo(5). Free of pyfuse3, for the command line."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs import proc

MODELFS: Final = "fuse.modelfs"
_USER: Final = re.compile(r"(?:^|,)user_id=(\d+)(?:,|$)")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the mount table."""

    path: Path
    device: str  # MAJOR:MINOR
    kind: str  # the type of the file system, such as "ext4" or "fuse.modelfs"
    number: str = ""  # unique in the table: `mnt_id` in proc_pid_fdinfo(5)
    options: str = ""  # of the file system, with commas

    @property
    def user(self) -> int | None:
        """The user ID of the user who mounted it, if it is a FUSE mount."""
        match = _USER.search(self.options)
        return int(match[1]) if match else None


def mounts(process: str | int = "self") -> list[MountEntry]:
    """Return the mounts that a process sees, in the order in which they were made.

    A line that is none is left out.

    Raises:
        OSError: the process has ended, or belongs to another user.
    """
    entries = []
    for line in proc.lines(process, "mountinfo"):
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda rw
        left, _, right = line.partition(" - ")
        match left.split(" "), right.split(" ", 2):  # 9p prints its options unescaped
            case [number, _, device, _, path, *_], [kind, _, options]:
                # Spaces, tabs, newlines and backslashes are octal escapes.
                path = re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), path)
                entries.append(MountEntry(Path(path), device, kind, number, options))
    return entries


def mounted_at(path: Path) -> MountEntry | None:
    """Return the mount at a path; the last one, which hides the others, if there are several."""
    entries = [entry for entry in mounts() if entry.path == path]
    return entries[-1] if entries else None


def mount_point_of(path: Path) -> Path:
    """Return the mount point of the mount that a path lies in."""
    path = Path(os.path.realpath(path))
    mount_points = {entry.path for entry in mounts()}
    folders = (path, *path.parents)
    return next((folder for folder in folders if folder in mount_points), Path("/"))


def mounted_elsewhere(device: str) -> tuple[int, Path] | None:
    """Return a process that still sees a modelfs mount, and the mount point that it sees.

    An unmounted file system lives on in mount namespaces that copied it, as containers do, and at
    other mount points that it was bound to.
    """
    for process in proc.processes():
        with contextlib.suppress(OSError):
            for entry in mounts(process):
                if entry.kind == MODELFS and entry.device == device:
                    return process, entry.path
    return None
