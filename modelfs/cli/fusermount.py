"""Unmounting with fusermount3(1), or with umount(8) as root."""

import os
import subprocess
from pathlib import Path

from modelfs.cli.failure import Failure


def unmount(path: Path) -> str | None:
    """Unmount the file system at a path; return the tool's error, None if there is none."""
    # -i calls no helper, because the helper `umount.modelfs` may be modelfs itself.
    command = ["umount", "-i"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    return _run([*command, "--", str(path)])


def clear(path: Path) -> None:
    """Remove the topmost mount at a path, whose daemon has ended.

    Raises:
        Failure: it cannot be removed.
    """
    command = ["umount", "-i", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    if (problem := _run([*command, "--", str(path)])) is not None:
        raise Failure(f"cannot unmount {path}, whose daemon ended: {problem}")


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
