"""Unmounting with fusermount3(1), or with umount(8) as root."""

import os
import subprocess
from pathlib import Path

from modelfs.cli.failure import Failure
from modelfs.mount_table import mounted_at


def unmount(path: Path) -> str | None:
    """Unmount the file system at a path; return the tool's error, None if there is none.

    Raises:
        Failure: another user mounted it.
    """
    # -i calls no helper, because the helper `umount.modelfs` may be modelfs itself.
    command = ["umount", "-i"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    return _unmount(command, path)


def clear(path: Path) -> None:
    """Remove the topmost mount at a path, whose daemon has ended.

    Raises:
        Failure: it cannot be removed, such as one of another user.
    """
    command = ["umount", "-i", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    if (problem := _unmount(command, path)) is not None:
        raise Failure(f"cannot unmount {path}, whose daemon ended: {problem}")


def _unmount(command: list[str], path: Path) -> str | None:
    entry = mounted_at(path)
    problem = _run([*command, "--", str(path)])
    if problem is None or entry is None or entry.user in (None, os.geteuid()) or not os.geteuid():
        return problem
    # fusermount3 reports that it did not find the mount among those of this user.
    raise Failure(f"permission denied: {path} (user {entry.user} mounted it; try as that user)")


def _run(command: list[str]) -> str | None:
    """Run a tool; return its error on one line, None if it succeeded."""
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as exc:
        raise Failure(f"{command[0]} is not installed; install fuse3 and util-linux") from exc
    if done.returncode == 0:
        return None
    return " ".join(done.stderr.split()) or f"{command[0]} ended with {done.returncode}"
