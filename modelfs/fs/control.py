"""The control socket: what other processes may ask the daemon of a mounted store.

One JSON object a line, each way. A request has a `command` and its arguments; the answer is any
number of `{"progress": {"done": n, "total": n}}` lines and then one `{"result": {...}}` or
`{"error": "...", "errno": n}`. The socket lies in the store's folder, which only its owner may
enter, and answers nobody but the daemon's own user and root.
"""

import errno
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import trio

from modelfs.errors import InvalidArgument, ModelfsError, NotPermitted
from modelfs.fs.background.scheduler import Scheduler
from modelfs.jobs.gc.collector import LIVE_MIN_SHORT, LIVE_MIN_SMALL
from modelfs.jobs.inspect import file as inspect
from modelfs.jobs.optimize.job import optimize_report
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.folder import CONTROL_SOCKET
from modelfs.store.index.tables import KEY_MAX, InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

REQUEST_MAX: Final = 64 << 10
BACKLOG: Final = 16
RATE_MAX: Final = 1 << 62

Request = dict[str, Any]
Reply = dict[str, Any]
Progress = Callable[[int, int], Awaitable[None]]

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Control:
    """Answers requests on the control socket."""

    def __init__(
        self,
        store: Store,
        writeback: Scheduler,
        mountpoint: Path,
        workers: trio.CapacityLimiter,
    ) -> None:
        self._store = store
        self._scrubbing = writeback.scrub
        self._mountpoint = mountpoint
        self._writeback = writeback
        self._workers = workers
        self._commands: dict[str, Callable[[Request, Progress], Awaitable[Reply]]] = {
            "stats": self._stats,
            "sync": self._sync,
            "gc": self._gc,
            "optimize": self._optimize,
            "inspect": self._inspect,
            "hold": self._commit,
            "scrub": self._scrub,
            "scrub-stop": self._stop_scrub,
            "scrub-status": self._report_scrub,
        }

    async def serve(self) -> None:
        """Answer until cancelled; the socket is removed then."""
        listener = _listen(self._store.folder)
        try:
            await trio.serve_listeners(self._answer, [trio.SocketListener(listener)])
        finally:
            (self._store.folder / CONTROL_SOCKET).unlink(missing_ok=True)

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            line = await _line(stream)
            if _command(line) == "hold" and _is_trusted(stream):
                await self._hold(stream, line)
            else:
                await _send(stream, await self._reply(stream, line))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            log.debug("control: the client went away: %s", exc)

    async def _hold(self, stream: trio.SocketStream, line: bytes) -> None:
        # Held before it is said to be, and until the client hangs up.
        async with self._writeback.pack_lock.pinned():
            reply = await self._reply(stream, line)
            await _send(stream, reply)
            while "result" in reply and await stream.receive_some():
                pass

    async def _reply(self, stream: trio.SocketStream, line: bytes) -> Reply:
        async def progress(done: int, total: int) -> None:
            await _send(stream, {"progress": {"done": done, "total": total}})

        if not _is_trusted(stream):
            message = "the control socket answers the store's owner only"
            return {"error": message, "errno": NotPermitted.errno}
        try:
            return {"result": await self._dispatch(_request(line), progress)}
        except ModelfsError as exc:
            return {"error": str(exc), "errno": exc.errno}
        except OSError as exc:
            return {"error": exc.strerror or str(exc), "errno": exc.errno or errno.EIO}
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as exc:
            log.exception("control: bug in a command")
            return {"error": f"bug in the daemon, see its log: {exc}", "errno": errno.EIO}

    async def _dispatch(self, request: Request, progress: Progress) -> Reply:
        name = request.get("command")
        if not isinstance(name, str) or name not in self._commands:
            raise InvalidArgument(f"unknown command {name!r}")
        return await self._commands[name](request, progress)

    async def _commit(self, request: Request, progress: Progress) -> Reply:
        # So that no pack is deleted any more that the last commit did not mention.
        await self._writeback.durability.commit()
        return {}

    async def _stats(self, request: Request, progress: Progress) -> Reply:
        disk = await trio.to_thread.run_sync(self._store.disk_usage, limiter=self._workers)
        return self._store.statistics(disk).to_dict()

    async def _sync(self, request: Request, progress: Progress) -> Reply:
        await self._writeback.durability.sync_mapped_files(self._mountpoint)
        await self._writeback.ingest.sync(progress)
        return {}

    async def _gc(self, request: Request, progress: Progress) -> Reply:
        if request.get("dry_run"):
            return {**asdict(self._writeback.gc.survey()), "dry_run": True}
        found = await self._writeback.gc.collect(LIVE_MIN_SHORT)
        return {**asdict(found), "dry_run": False}

    async def _optimize(self, request: Request, progress: Progress) -> Reply:
        depth = request.get("depth")
        if depth is not None and (not isinstance(depth, int) or not 1 <= depth <= CHAIN_MAX):
            raise InvalidArgument(f"depth is a number from 1 to {CHAIN_MAX}")
        await self._writeback.ingest.sync()
        before = self._store.statistics(0)
        optimizing = self._writeback.optimize
        try:
            await optimizing.follow(progress, depth, include_optimized=bool(request.get("again")))
        finally:
            await self._writeback.durability.commit()
        await self._writeback.gc.collect(LIVE_MIN_SMALL)
        return optimize_report(self._store, optimizing.backlog, before)

    async def _scrub(self, request: Request, progress: Progress) -> Reply:
        rate = request.get("rate", 0)
        if not isinstance(rate, int) or not 0 <= rate <= RATE_MAX:
            raise InvalidArgument("rate is a number of bytes per second")
        follows = self._scrubbing.running and not rate
        if not follows:
            self._scrubbing.begin(restart=bool(request.get("anew")), rate=rate)
        if not rate:
            try:
                await self._scrubbing.follow(progress)
            except BaseException:
                # Whoever waited has gone, and the scrub was for nobody else.
                if not follows:
                    self._scrubbing.pause()
                raise
        return await self._scrubbing.report()

    async def _stop_scrub(self, request: Request, progress: Progress) -> Reply:
        self._scrubbing.pause()
        return await self._scrubbing.report()

    async def _report_scrub(self, request: Request, progress: Progress) -> Reply:
        return await self._scrubbing.report()

    async def _inspect(self, request: Request, progress: Progress) -> Reply:
        inode = request.get("inode")
        if not isinstance(inode, int) or not 0 <= inode <= KEY_MAX:
            raise InvalidArgument("inspect needs an inode")
        subject = inspect.begin(self._store, InodeNumber(inode))
        report = await trio.to_thread.run_sync(
            inspect.finish, self._store, subject, limiter=self._workers
        )
        return report.to_dict()


def _listen(folder: Path) -> trio.socket.SocketType:
    # A socket's path may have 108 bytes at most, and a store's may have more: bind through the
    # folder's descriptor.
    path = folder / CONTROL_SOCKET
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{CONTROL_SOCKET}")
    finally:
        os.close(fd)
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return trio.socket.from_stdlib_socket(listener)


def _is_trusted(stream: trio.SocketStream) -> bool:
    packed = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    return uid in (0, os.geteuid())


async def _line(stream: trio.SocketStream) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) <= REQUEST_MAX:
        more = await stream.receive_some()
        if not more:
            break
        line += more
    return line


def _request(line: bytes) -> Request:
    try:
        request: object = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidArgument("a request is one JSON object on a line") from exc
    if not isinstance(request, dict):
        raise InvalidArgument("a request is one JSON object on a line")
    return request


def _command(line: bytes) -> object:
    try:
        return _request(line).get("command")
    except InvalidArgument:
        return None


async def _send(stream: trio.SocketStream, reply: Reply) -> None:
    await stream.send_all(json.dumps(reply).encode() + b"\n")
