"""The client of a daemon's control socket. The protocol is described in `fs.control`."""

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from typing import Any, Final, Self

import click

from modelfs.cli.daemon_log import LOG_NAME
from modelfs.cli.failure import DAEMON_HINTS, Failure, with_hint
from modelfs.errors import StoreNotTrusted
from modelfs.fs.host.peer import peer_of
from modelfs.jobs.steps import Progress
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import CONTROL_SOCKET, open_folder

CONNECT_SECONDS: Final = 10.0
# After this long without a line from the daemon, a note names the daemon that the command waits
# for.
NOTE_SECONDS: Final = 10.0
REPLY_MAX: Final = 1 << 30  # bytes


class DaemonClient:
    """A connection to a daemon. Closing it ends a `hold`."""

    def __init__(self, connection: socket.socket, folder: Directory) -> None:
        self._socket = connection
        self._folder = folder
        self._store = folder.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def pid(self) -> int:
        """The daemon's process id; 0 if the daemon runs in another process namespace."""
        return peer_of(self._socket).pid

    @property
    def user(self) -> int:
        """The daemon's user ID."""
        return peer_of(self._socket).uid

    def ask(
        self, command: str, progress: Progress | None = None, **arguments: bool | int
    ) -> dict[str, Any]:
        """Send a command to the daemon, and return its result.

        Raises:
            Failure: the command failed, or the daemon ended or broke the protocol.
        """
        store = str(self._folder.identity)  # a daemon of another store refuses the request
        request = json.dumps({"command": command, "store": store, **arguments}) + "\n"
        try:
            self._socket.sendall(request.encode())
            for reply in self._replies():
                if "result" in reply:
                    return _object(reply["result"])
                if "error" in reply:
                    problem = with_hint(str(reply["error"]), reply.get("errno"), DAEMON_HINTS)
                    raise Failure(f"the daemon of {self._store} reports: {problem}")
                if progress is not None:
                    done = reply["progress"]
                    progress(int(done["done"]), int(done["total"]))
        except OSError as exc:
            raise Failure(f"lost the daemon of {self._store} ({exc.strerror})") from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise Failure(
                f"the daemon of {self._store} sent an answer that this version does not "
                "understand; unmount and mount again"
            ) from exc
        raise Failure(
            f"the daemon of {self._store} ended before it answered; "
            f"see its log: {self._store / LOG_NAME}"
        )

    def _replies(self) -> Iterator[dict[str, Any]]:
        """Yield the daemon's answers as they come; note on stderr if none comes for long."""
        buffer = bytearray()
        while True:
            readable, _, _ = select.select([self._socket], [], [], NOTE_SECONDS)
            if not readable:
                note = f"still waiting for the daemon of {self._store} (process {self.pid})"
                click.echo(f"modelfs: {note}", err=True)
            data = self._socket.recv(1 << 20)
            if not data:
                return
            buffer += data
            if b"\n" in data:
                *lines, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    yield _object(json.loads(line))
            if len(buffer) > REPLY_MAX:
                raise ValueError("an endless line")


class Refused(Failure):
    """The daemon of a store may not be used by this user."""


def connect_to_read(store: Directory, *, trust: bool = False) -> DaemonClient | None:
    """Connect as `connect` does; None also if this user may not use the daemon.

    For commands that only read: they show the last commit then.
    """
    with contextlib.suppress(Refused):
        return connect(store, trust=trust)
    return None


def connect(store: Directory, *, trust: bool = False) -> DaemonClient | None:
    """Connect to the daemon that has a store mounted; None if there is none.

    Args:
        store: its folder, which stays open.
        trust: see `Store`.

    Raises:
        StoreNotTrusted: another user may be able to change the store, or has made the socket.
        Refused: this user may not use the daemon.
        Failure: the daemon does not answer.
    """
    folder = open_folder(store, read_only=True, trust=trust)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    try:
        # By way of a descriptor: no link is followed then, and a socket's address has room for 108
        # bytes only.
        with folder.opened_socket(CONTROL_SOCKET) as link:
            connection.connect(link)
    except (OSError, StoreNotTrusted) as exc:
        connection.close()
        match exc:
            case FileNotFoundError() | ConnectionRefusedError():
                return None
            case PermissionError():
                who = "only the owner of the store and root may use its daemon"
                raise Refused(f"permission denied: {store.path} ({who})") from exc
            case TimeoutError():
                raise Failure(
                    f"the daemon of {store.path} does not answer; is it stopped?"
                ) from exc
        raise
    connection.settimeout(None)
    client = DaemonClient(connection, folder)
    if not trust and client.user not in (0, folder.owner):
        client.close()
        raise StoreNotTrusted(
            f"permission denied: {folder.path} (user {client.user} answers at {CONTROL_SOCKET})"
        )
    return client


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - as json.loads does
    return value
