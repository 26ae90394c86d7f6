"""A program of its own: has the kernel send what was written to files through mappings.

    python -I -S dirty_pages.py < FILES > MOVED

An fsync of each file, because for FUSE mounts syncfs(2) starts that and does not wait. FILES has an
inode, a space, a path and a NUL for each; MOVED has a line for each inode that was not at its path,
and stderr one for each that could not be synced.

The daemon must not do this itself. A thread that waits for an answer of its own mount does not die
with the process, keeps /dev/fuse open, and so the kernel never learns that nobody will answer: a
daemon killed at that moment would leave a mount that hangs, and a store that stays locked.
"""

import os
import sys


def main() -> None:
    for line in sys.stdin.buffer.read().split(b"\0")[:-1]:
        inode, _, path = line.partition(b" ")
        try:
            moved = _fsync(path) != int(inode)
        except (FileNotFoundError, NotADirectoryError):
            moved = True
        except OSError as exc:
            print(f"{os.fsdecode(path)}: {exc.strerror}", file=sys.stderr)  # noqa: T201
            continue
        if moved:
            print(int(inode))  # noqa: T201


def _fsync(path: bytes) -> int:
    # Whatever is at the path by now: no symlink is followed, and no FIFO waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
