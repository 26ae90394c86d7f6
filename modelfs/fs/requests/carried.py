"""Requests that pyfuse3 has no handler for, carried by requests for attributes.

See docs/design/session.md. A handler here decodes the body, and encodes its result as the body of
the reply: see fuse_lseek_in and the like in include/uapi/linux/fuse.h. The rules are those of all
handlers (see `operations`). The kernel holds the inode's lock meanwhile, and the program cannot be
killed, so each handler ends within moments.

Example. A program asks for the first hole of a file, and LSEEK comes with handle 3, offset 0 and
SEEK_HOLE. The file of handle 3 has a hole at 4096, and the reply is 4096, as eight bytes.
"""

import struct
from collections.abc import Awaitable, Callable
from typing import Final

from pyfuse3 import FileHandleT, RequestContext

from modelfs.fs.background.durability import Durability
from modelfs.fs.handles import Handles
from modelfs.fs.host import session_io
from modelfs.fs.requests.allocator import Allocator
from modelfs.fs.requests.boundary import replies
from modelfs.fs.requests.copier import Copier
from modelfs.fs.requests.seeker import Seeker

_LSEEK: Final = struct.Struct("=QQI")  # handle, offset, whence
_COPY: Final = struct.Struct("=QQQQQQ")  # handle, offset, inode, handle, offset, length
_COPIED: Final = struct.Struct("=II")  # length, padding
_COPIED_MAX: Final = (1 << 32) - 1
_FALLOCATE: Final = struct.Struct("=QQQI")  # handle, offset, length, mode
_OFFSET: Final = struct.Struct("=Q")

Handler = Callable[[bytes, RequestContext], Awaitable[bytes]]


class CarriedRequests:
    """The handlers, by opcode."""

    def __init__(
        self,
        handles: Handles,
        seeker: Seeker,
        allocator: Allocator,
        copier: Copier,
        durability: Durability,
    ) -> None:
        """Make the handlers; the requests come from now on."""
        self._handles = handles
        self._seeker = seeker
        self._allocator = allocator
        self._copier = copier
        self._durability = durability
        self._handlers: dict[int, Handler] = {
            session_io.LSEEK: self.lseek,
            session_io.FALLOCATE: self.fallocate,
            session_io.COPY_FILE_RANGE: self.copy_file_range,
        }
        session_io.carry(*self._handlers)

    async def answer(self, opcode: int, body: bytes, ctx: RequestContext) -> bytes:
        """Return the body of the reply to a carried request. Raises only `FUSEError`."""
        return await self._handlers[opcode](body, ctx)

    @replies
    async def lseek(self, body: bytes, ctx: RequestContext) -> bytes:
        handle, offset, whence = _LSEEK.unpack_from(body)
        inode = self._handles[FileHandleT(handle)].inode
        return _OFFSET.pack(await self._seeker.seek(inode, offset, whence))

    @replies
    async def fallocate(self, body: bytes, ctx: RequestContext) -> bytes:
        handle, start, length, mode = _FALLOCATE.unpack_from(body)
        inode = self._handles[FileHandleT(handle)].inode
        await self._allocator.allocate(inode, start, start + length, mode, ctx.pid)
        await self._end_change(FileHandleT(handle))
        return b""

    @replies
    async def copy_file_range(self, body: bytes, ctx: RequestContext) -> bytes:
        handle, start, _, other, at, size = _COPY.unpack_from(body)
        source, target = (FileHandleT(handle), start), (FileHandleT(other), at)
        copied = await self._copier.copy(source, target, min(size, _COPIED_MAX), ctx.pid)
        await self._end_change(target[0])
        return _COPIED.pack(copied, 0)

    async def _end_change(self, handle: FileHandleT) -> None:
        """Make a change of a file durable, if it was opened for that: the kernel asks for no fsync.

        Raises:
            LostBytes, StoreFull, OSError: it cannot be made durable.
        """
        if self._handles[handle].durable:
            await self._durability.make_durable(self._handles[handle].inode)
