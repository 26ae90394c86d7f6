"""Arbitrary bytes as a client's request to the daemon's control socket."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from modelfs.fs.background import mapped_pages
from modelfs.fs.control import Control
from modelfs.store.create import create_store
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_all
from tests.support.served_store import Served
from tests.support.stores import CHUNK, model_of, new_file, noise

# No request takes as long here; the fuzzer's own limit is for what never comes to a checkpoint.
DEADLINE: Final = 10.0

COMMANDS: Final = (
    "stats",
    "sync",
    "gc",
    "inspect",
    "hold",
    "scrub",
    "scrub-stop",
    "scrub-status",
    "nothing",
)


class Daemon:
    """A store that is served, and asked one thing at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, content: bytes) -> None:
        trio.run(self._ask, content)

    async def _ask(self, content: bytes) -> None:
        ours, theirs = socket.socketpair()
        async with trio.open_nursery() as nursery:
            served = Served(self._store, nursery)
            nursery.start_soon(served.background.scrub.run)
            control = Control(self._store, served.background, served.workers)
            with trio.fail_after(DEADLINE):
                async with trio.open_nursery() as talk:
                    talk.start_soon(_answer, control, _stream(theirs))
                    async with _stream(ours) as stream:
                        talk.start_soon(_send, stream, content)
                        check_answer(await _received(stream))
            nursery.cancel_scope.cancel()


def _stream(end: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(end))


async def _answer(control: Control, stream: trio.SocketStream) -> None:
    async with stream:
        await control._answer(stream)


async def _send(stream: trio.SocketStream, content: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(content)
        await stream.send_eof()


async def _received(stream: trio.SocketStream) -> bytes:
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):  # it hung up: the request was too long
        async for more in stream:
            data += more
    return data


def check_answer(data: bytes) -> None:
    """An answer is lines of JSON, of which the last is a result or an error that is no bug."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]
    assert all(set(line) == {"progress"} for line in lines[:-1])
    if lines:
        last = lines[-1]
        assert set(last) in ({"result"}, {"error", "errno"})
        assert "bug in the daemon" not in str(last.get("error"))


@contextlib.contextmanager
def open_control(folder: Path) -> Iterator[Callable[[bytes], None]]:
    create_store(folder / "store", chunk_size=CHUNK)
    with pytest.MonkeyPatch.context() as patch, Store(folder / "store") as store:
        # There is no mount whose pages the kernel could be asked for.
        patch.setattr(mapped_pages, "sync_mapped_files", lambda *_: {})
        new_file(store, b"model", model_of(noise(CHUNK), noise(100, 1)))
        new_file(store, b"copy", model_of(noise(CHUNK)))
        ingest_all(store)
        yield Daemon(store)


def control_seeds() -> Iterator[bytes]:
    for command in COMMANDS:
        yield json.dumps({"command": command}).encode() + b"\n"
    for inode in (0, 1, 2, 3, 99, -1, 1 << 64, 2.0, True, None, "2", [2]):
        yield json.dumps({"command": "inspect", "inode": inode}).encode() + b"\n"
    yield b'{"command": "gc", "dry_run": true}\n'
    for rate in (0, 1, -1, 1 << 63, True, None, "1"):
        yield json.dumps({"command": "scrub", "rate": rate, "anew": bool(rate)}).encode()
    yield b'{"command": ["\\ud800", {"a": [1e999, NaN, -0]}], "command": 5}'
    yield '{"command": "stats"}'.encode("utf-16")
    yield b"[" * 2000
