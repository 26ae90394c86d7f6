"""Talking to the daemon of a mounted store, over the control socket in the store's folder.

One JSON object a line, each way: a request has a `command` and its arguments; the answer is any
number of `{"progress": {"done": n, "total": n}}` and then one `{"result": {...}}` or
`{"error": "...", "errno": n}`.
"""

import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import click

from modelfs.cli.failure import Failure, hinted
from modelfs.store.folder import CONTROL_SOCKET

CONNECT_SECONDS: Final = 10.0
# After this long without a word from the daemon, the user is told what is waited for.
PATIENCE: Final = 10.0
REPLY_MAX: Final = 1 << 30

Progress = Callable[[int, int], None]

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class DaemonClient:
    """A connection to a daemon. Closing it lets go of what `hold` held."""

    def __init__(self, connected: socket.socket, store: Path) -> None:
        self._socket = connected
        self._store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def pid(self) -> int:
        """The daemon's process id; 0 if it cannot be seen from here."""
        packed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(packed)[0]
        return pid

    def ask(
        self, command: str, progress: Progress | None = None, **arguments: bool | int
    ) -> dict[str, Any]:
        """Have the daemon do something, and return its result.

        Raises:
            Failure: it could not, or ended, or did not keep to the protocol.
        """
        request = json.dumps({"command": command, **arguments}) + "\n"
        try:
            self._socket.sendall(request.encode())
            for reply in self._replies():
                if "result" in reply:
                    return _object(reply["result"])
                if "error" in reply:
                    problem = hinted(str(reply["error"]), reply.get("errno"))
                    raise Failure(f"the daemon of {self._store} says: {problem}")
                if progress is not None:
                    progress(*_progress(reply))
        except OSError as exc:
            raise Failure(f"the daemon of {self._store} went away ({exc.strerror})") from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise Failure(
                f"the daemon of {self._store} gave an answer that this version does not know; "
                "unmount and mount again"
            ) from exc
        raise Failure(
            f"the daemon of {self._store} ended before it answered; "
            f"{self._store / 'daemon.log'} may tell why"
        )

    def _replies(self) -> Iterator[dict[str, Any]]:
        buffer = bytearray()
        while more := self._receive():
            buffer += more
            while (end := buffer.find(b"\n", max(0, len(buffer) - len(more)))) >= 0:
                line, buffer = bytes(buffer[:end]), buffer[end + 1 :]
                more = bytes(buffer)
                yield _object(json.loads(line))
            if len(buffer) > REPLY_MAX:
                raise ValueError("an endless line")

    def _receive(self) -> bytes:
        readable, _, _ = select.select([self._socket], [], [], PATIENCE)
        if not readable:
            note = f"modelfs: still waiting for the daemon of {self._store} (process {self.pid})"
            click.echo(note, err=True)
        return self._socket.recv(1 << 20)


def connect(store: Path) -> DaemonClient | None:
    """Connect to the daemon that has a store mounted; None if there is none.

    Raises:
        Failure: there is one, but it may not be asked or does not answer.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(CONNECT_SECONDS)
    try:
        _connect(connected, store)
    except (FileNotFoundError, ConnectionRefusedError):
        connected.close()
        return None
    except PermissionError as exc:
        connected.close()
        raise Failure(f"the daemon of {store} answers its owner and root only") from exc
    except TimeoutError as exc:
        connected.close()
        raise Failure(f"the daemon of {store} does not answer; is it stopped?") from exc
    connected.settimeout(None)
    return DaemonClient(connected, store)


def _connect(connected: socket.socket, store: Path) -> None:
    # A socket's path may have 108 bytes at most, a store's may have more: go through a descriptor.
    folder = os.open(store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connected.connect(f"/proc/self/fd/{folder}/{CONTROL_SOCKET}")
    finally:
        os.close(folder)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - what json.loads raises, too
    return value


def _progress(reply: dict[str, Any]) -> tuple[int, int]:
    progress = reply["progress"]
    return int(progress["done"]), int(progress["total"])
