"""The process at the other end of a socket."""

import os
import socket
from pathlib import Path

import trio

from modelfs.fs.host.peer import Peer, peer_of
from tests.support.stores import run_apart

CONNECT = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print(os.getpid())
"""


def test_this_process() -> None:
    """Both ends of a pair of sockets have the process that made it."""
    here = Peer(os.getpid(), os.geteuid(), os.getegid())
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == peer_of(other) == here


async def test_another_process(tmp_path: Path) -> None:
    """A socket of trio has the process that connected, also after its end."""
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "socket"))
        listener.listen()
        pid = await trio.to_thread.run_sync(run_apart, CONNECT, tmp_path / "socket")
        connection, _ = await listener.accept()
        with connection:
            assert peer_of(connection).pid == int(pid) != os.getpid()
