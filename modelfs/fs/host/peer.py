"""The process at the other end of a Unix socket."""

import socket
import struct
from typing import NamedTuple, Protocol

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)


class _Socket(Protocol):
    """A socket of Python or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


class Peer(NamedTuple):
    """A process as it was when it connected, or when it began to listen."""

    pid: int  # 0 if the process is in another namespace of processes
    uid: int
    gid: int


def peer_of(connection: _Socket) -> Peer:
    """Return the process at the other end of a connected Unix socket."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(packed))
