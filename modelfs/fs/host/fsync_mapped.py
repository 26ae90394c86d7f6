"""A program of its own: fsync files that were written to through mappings.

    python -I -S fsync_mapped.py < FILES > MOVED

FILES has an inode, a space, a path and a NUL for each file. MOVED has a line for each inode that
was not at its path, and stderr a line for each file whose fsync failed. Each file gets an fsync of
its own, because on a FUSE mount syncfs(2) starts the writes and does not wait for them.

The daemon must not do this itself. A thread that waits for an answer of its own mount does not end
with its process and keeps /dev/fuse open, so the kernel never learns that no answer will come. A
daemon that is killed at that moment would leave a mount that hangs and a store that stays locked.
"""

import os
import sys


def main() -> None:
    for line in sys.stdin.buffer.read().split(b"\0")[:-1]:
        inode, _, path = line.partition(b" ")
        try:
            # Another file may have the path by now: follow no symbolic link, wait for no FIFO.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
                moved = os.fstat(fd).st_ino != int(inode)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            moved = True
        except OSError as exc:
            print(f"{os.fsdecode(path)}: {exc.strerror}", file=sys.stderr)  # noqa: T201
            continue
        if moved:
            print(int(inode))  # noqa: T201


if __name__ == "__main__":
    main()
