"""The control socket, on which the daemon of a mounted store answers other processes.

Protocol: one JSON object a line, in both directions. A request has a `command` and its arguments,
as listed in `commands`. The answer is any number of progress lines, and then a result or an error::

    > {"command": "scrub"}
    < {"progress": {"done": 0, "total": 4096}}
    < {"progress": {"done": 4096, "total": 4096}}
    < {"result": {...}}                              or  {"error": "...", "errno": 28}

The socket lies in the store's folder, which only its owner may enter. The daemon answers processes
of its own user, of the store's owner and of root. A request may name its store by the identity of
the folder, as `"store": "DEVICE:INODE"`, and the daemon of another store refuses it: hard links and
mounts can bring the socket of one store into the folder of another.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
from typing import Final

import trio

from modelfs.errors import InvalidArgument, IrregularFile, ModelfsError, NotPermitted
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.commands import Commands, Json
from modelfs.fs.host.peer import peer_of
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import CONTROL_SOCKET
from modelfs.store.store import Store

log = logging.getLogger(__name__)

REQUEST_MAX: Final = 64 << 10  # bytes
BACKLOG: Final = 16
RETRY_SECONDS: Final = 10.0


class Control:
    """Answers requests on the control socket."""

    def __init__(
        self,
        store: Store,
        background: Scheduler,
        workers: trio.CapacityLimiter,
    ) -> None:
        self._folder = store.directory
        self._pack_lock = background.pack_lock
        self._workers = workers
        self._commands = Commands(store, background, workers)

    async def serve(self) -> None:
        """Answer until cancelled, and remove the socket then.

        If the socket cannot be made, as on a full disk, the mount goes on without it, and the next
        attempt comes `RETRY_SECONDS` later.

        Raises:
            StoreNotTrusted: in the place of the socket there is something else.
        """
        while True:
            try:
                listener = _listen(self._folder)
                break
            except OSError as exc:
                log.error(
                    "cannot make the control socket, so commands do not reach this daemon; "
                    "next attempt in %.0f s: %s",
                    RETRY_SECONDS,
                    exc,
                )
            await trio.sleep(RETRY_SECONDS)
        try:
            await trio.serve_listeners(self._answer, [trio.SocketListener(listener)])
        finally:
            self._folder.unlink(CONTROL_SOCKET)

    async def _answer(self, stream: trio.SocketStream) -> None:
        """Answer one client."""
        try:
            line = await _read_line(stream)
            try:
                request = self._request(stream, line)
            except ModelfsError as exc:
                await self._answer_with(stream, _error(exc))
                return
            if request.get("command") != "hold":
                await self._answer_with(stream, await self._reply(stream, request))
                return
            # The packs are pinned before the client is answered, and until it hangs up.
            async with self._pack_lock.pinned():
                reply = await self._reply(stream, request)
                await self._answer_with(stream, reply)
                while "result" in reply and await stream.receive_some():
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            log.debug("control socket: the client hung up: %s", exc)

    async def _answer_with(self, stream: trio.SocketStream, reply: Json) -> None:
        """Send the last line of an answer, which may be long: a report has a row per tensor."""
        line = await trio.to_thread.run_sync(_encoded, reply, limiter=self._workers)
        await stream.send_all(line)

    async def _reply(self, stream: trio.SocketStream, request: Json) -> Json:
        """Carry out a request, and return the last line of the answer."""

        async def progress(done: int, total: int) -> None:
            line = json.dumps({"progress": {"done": done, "total": total}})
            await stream.send_all(line.encode() + b"\n")

        try:
            return {"result": await self._commands.run(request, progress)}
        except ModelfsError as exc:
            return _error(exc)
        except OSError as exc:
            return {"error": exc.strerror or str(exc), "errno": exc.errno or errno.EIO}
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as exc:
            log.exception("control socket: bug in a command")
            return {"error": f"bug in the daemon, see its log: {exc}", "errno": errno.EIO}

    def _request(self, stream: trio.SocketStream, line: bytes) -> Json:
        """Return the request in a client's line.

        Raises:
            NotPermitted: the client is a process of another user.
            InvalidArgument: the line has no request, or one for another store.
        """
        if peer_of(stream.socket).uid not in (0, os.geteuid(), self._folder.owner):
            raise NotPermitted(
                "permission denied: only the owner of the store and root may use the daemon"
            )
        try:
            request: object = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise InvalidArgument("a request is one JSON object on a line") from exc
        if not isinstance(request, dict):
            raise InvalidArgument("a request is one JSON object on a line")
        if request.get("store", str(self._folder.identity)) != str(self._folder.identity):
            raise InvalidArgument(
                f"this is the daemon of {os.readlink(self._folder.link)}, which is another store"
            )
        return request


def _listen(folder: Directory) -> trio.socket.SocketType:
    """Bind the control socket of a store, in place of one that a killed daemon left.

    Raises:
        IrregularFile: something else is in its place.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(CONTROL_SOCKET, dir_fd=folder.fd, follow_symlinks=False).st_mode
        if not stat.S_ISSOCK(mode):
            raise IrregularFile(f"permission denied: {folder.path / CONTROL_SOCKET} (not a socket)")
        folder.unlink(CONTROL_SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # bind(2) gives the file the mode that the socket has by then: so it never has another.
        os.fchmod(listener.fileno(), 0o600)
        # A socket's address has room for 108 bytes, and the path of a store may be longer. So bind
        # by way of the folder's descriptor.
        with folder.making():
            listener.bind(f"{folder.link}/{CONTROL_SOCKET}")
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return trio.socket.from_stdlib_socket(listener)


async def _read_line(stream: trio.SocketStream) -> bytes:
    """Return a client's first line, or as much of it as comes."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= REQUEST_MAX:
        data = await stream.receive_some()
        if not data:
            break
        line += data
    return line


def _error(exc: ModelfsError) -> Json:
    return {"error": str(exc), "errno": exc.errno}


def _encoded(reply: Json) -> bytes:
    # Not `dumps`, which keeps Python's lock until it is done, and so the event loop waiting.
    return "".join(json.JSONEncoder().iterencode(reply)).encode() + b"\n"
