"""A program of its own: fsync files that were written to through mappings.

    python -I -S fsync_mapped.py MOUNTPOINT DEVICE < FILES > PROBLEMS

DEVICE is the number of the mount's device, from when it was made: another mount may lie over it by
now. FILES has an inode, a space, a path from the mount point
and a NUL for each file. PROBLEMS has a line for each file that could not be synced: its inode, a
space, and the reason. The reason "moved" means that another file is at its path, or none.

A file is opened by its inode number, as a handle: no permission, no rename and no length of a path
can be in the way, and the kernel opens an inode that is in its cache without a request to the
daemon; one that is not (ESTALE) has no pages. That takes CAP_DAC_READ_SEARCH. A program without it
(EPERM) opens the path.

Each file gets an fsync of its own, because on a FUSE mount syncfs(2) starts the writes and does not
wait for them.

The daemon must not do this itself. A thread that waits for an answer of its own mount does not end
with its process and keeps /dev/fuse open, so the kernel never learns that no answer will come. A
daemon that is killed at that moment would leave a mount that hangs and a store that stays locked.

Example. Process 7 has /secret/weights mapped, in a folder of mode 0700. `2 /secret/weights` makes
this program open the handle (2, generation 0) and fsync it: the kernel sends the pages to the
daemon.
"""

import ctypes
import errno
import os
import struct
import sys

# A `struct file_handle` of FUSE: bytes, type, the inode's number as two words, generation.
HANDLE = struct.Struct("=IiIII")
FILEID_INO64_GEN = 0x81
MOVED = "moved"

_libc = ctypes.CDLL(None, use_errno=True)


def open_handle(mount: int, inode: int) -> int:
    """Return a descriptor of an inode, by name_to_handle_at(2)'s handle for it.

    Args:
        mount: a descriptor of the mount; with O_PATH open_by_handle_at(2) refuses it.
        inode: the inode.

    Raises:
        OSError: EPERM without the capability, ESTALE if the kernel does not have the inode.
    """
    handle = HANDLE.pack(12, FILEID_INO64_GEN, inode >> 32, inode & 0xFFFFFFFF, 0)
    fd = int(_libc.open_by_handle_at(mount, handle, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def open_path(mount: int, path: bytes) -> int:
    """Return a descriptor of the file at a path from the mount point."""
    # Another file may have the path by now: follow no symbolic link, wait for no FIFO.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path.lstrip(b"/"), flags, dir_fd=mount)


def open_file(mount: int, inode: int, path: bytes) -> int | None:
    """Return a descriptor of an inode, None if the kernel has no pages of it.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return open_handle(mount, inode)
    except OSError as exc:
        if exc.errno == errno.ESTALE:
            return None
        if exc.errno != errno.EPERM:
            raise
    return open_path(mount, path)


def problem_of(mount: int, device: int, inode: int, path: bytes) -> str | None:
    """Sync a file; return the reason if that was not possible."""
    try:
        if (fd := open_file(mount, inode, path)) is None:
            return None
        try:
            os.fsync(fd)
            status = os.fstat(fd)
            return None if (status.st_dev, status.st_ino) == (device, inode) else MOVED
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return MOVED
    except OSError as exc:
        return exc.strerror


def main() -> None:
    mountpoint, device = sys.argv[1], int(sys.argv[2])
    mount = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.fstat(mount).st_dev != device:
        sys.exit("another mount hides it")
    for line in sys.stdin.buffer.read().split(b"\0")[:-1]:
        inode, _, path = line.partition(b" ")
        if (problem := problem_of(mount, device, int(inode), path)) is not None:
            print(int(inode), problem)  # noqa: T201


if __name__ == "__main__":
    main()
