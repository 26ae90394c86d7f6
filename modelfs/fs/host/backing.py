"""Backing files: plain files that the kernel reads, writes and maps in place of a mount's file.

FUSE passthrough (Linux 6.9): the reply to an open names a backing file, which was registered by its
descriptor before. From then on the kernel sends no reads and writes of that open file, and if it is
mapped, the backing file is. See Documentation/filesystems/fuse-passthrough.rst.

All opens of an inode at a time must have the same backing file, or none of them one: the kernel
answers a program whose open is another way with EIO. A mapping may outlive the close of its file.

Example. The file 5-0 is registered as number 1. Inode 5 is opened twice, each time with number 1,
and closed twice. The registration ends with the second close.
"""

import fcntl
import struct
from typing import Final

from modelfs.fs.host import session_io

# As in include/uapi/linux/fuse.h: _IOW(229, 1, struct fuse_backing_map), _IOW(229, 2, uint32_t).
_MAP: Final = struct.Struct("=iIQ")  # descriptor, flags, padding
_NUMBER: Final = struct.Struct("=I")
_OPEN: Final = 1 << 30 | _MAP.size << 16 | 229 << 8 | 1
_CLOSE: Final = 1 << 30 | _NUMBER.size << 16 | 229 << 8 | 2


class BackingFiles:
    """The backing files of the mount that this process serves."""

    def __init__(self) -> None:
        self._device = session_io.device()

    def register(self, fd: int) -> int:
        """Register a file, and return its number. The kernel holds the file; `fd` may be closed.

        Raises:
            OSError: it cannot be a backing file. EPERM: this process lacks CAP_SYS_ADMIN. ELOOP:
                its file system is stacked on others, such as overlayfs. EOPNOTSUPP: a file system
                whose files cannot be. ENOTTY: a kernel without passthrough.
        """
        # With bytes, which it cannot change, ioctl would return them in place of the number.
        return int(fcntl.ioctl(self._device, _OPEN, bytearray(_MAP.pack(fd, 0, 0))))

    def unregister(self, number: int) -> None:
        """Let the kernel close a backing file when no open file has it any more."""
        fcntl.ioctl(self._device, _CLOSE, _NUMBER.pack(number))
