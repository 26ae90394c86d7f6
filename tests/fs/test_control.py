"""The control socket: the daemon's answers, and the processes that get them."""

import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from pyfuse3 import FileNameT, InodeT
from trio.testing import MockClock, wait_all_tasks_blocked

from modelfs.errors import StoreNotTrusted
from modelfs.fs import control
from modelfs.fs.background import mapped_pages
from modelfs.fs.control import REQUEST_MAX, Control
from modelfs.fs.host.peer import Peer
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.create import create_store
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import CONTROL_SOCKET
from modelfs.store.index.tables import InodeNumber
from tests.support.served_store import (
    ASKED,
    TOP,
    Counting,
    Failing,
    Held,
    Served,
    all_synced,
)
from tests.support.stores import CHUNK, checked, model_of, noise, pending_files

Reply = dict[str, Any]


@pytest.fixture
def synced(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> Counting[..., dict[InodeNumber, str]]:
    """The calls that sync mapped files, of a store that is served."""
    synced = Counting(all_synced)
    monkeypatch.setattr(mapped_pages, "sync_mapped_files", synced)
    return synced


@pytest.fixture
async def daemon(
    served: Served, synced: Counting[..., dict[int, str]], nursery: trio.Nursery
) -> Served:
    """A store whose control socket answers."""
    answering = Control(served.store, served.background, served.workers)
    nursery.start_soon(answering.serve)
    await wait_all_tasks_blocked()
    return served


@asynccontextmanager
async def connected(daemon: Served) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_unix_socket(daemon.store.folder / CONTROL_SOCKET) as stream:
        yield stream


async def replies(stream: trio.SocketStream) -> list[Reply]:
    """Return the lines that come until the daemon hangs up."""
    data = b""
    with trio.fail_after(10):
        async for more in stream:
            data += more
    return [json.loads(line) for line in data.splitlines()]


async def answer_to(daemon: Served, line: bytes) -> list[Reply]:
    """Send bytes, and return the answer."""
    async with connected(daemon) as stream:
        await stream.send_all(line)
        await stream.send_eof()
        return await replies(stream)


async def ask(daemon: Served, command: str, **arguments: object) -> Reply:
    """Return the last line of the answer to a command."""
    request = {"command": command, **arguments}
    return (await answer_to(daemon, json.dumps(request).encode() + b"\n"))[-1]


async def test_socket_is_the_owners(daemon: Served) -> None:
    """The socket's mode lets its owner connect and no other user."""
    mode = (daemon.store.folder / CONTROL_SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_socket_that_cannot_be_made(
    served: Served,
    nursery: trio.Nursery,
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The daemon goes on without it, leaves no descriptor open, and tries again after a while."""
    bind = Failing(socket.socket.bind, OSError(errno.ENOSPC, "no room"))
    monkeypatch.setattr(socket.socket, "bind", bind)
    before = os.listdir("/proc/self/fd")
    nursery.start_soon(Control(served.store, served.background, served.workers).serve)
    await wait_all_tasks_blocked()
    assert "commands do not reach this daemon; next attempt in 10 s: " in caplog.text
    assert len(os.listdir("/proc/self/fd")) == len(before)
    caplog.clear()
    mock_clock.jump(control.RETRY_SECONDS)
    await wait_all_tasks_blocked()
    assert "result" in await ask(served, "stats")


async def test_stats(daemon: Served) -> None:
    """`stats` returns the store's numbers."""
    await daemon.chunked(b"f", noise(3 * CHUNK))
    await daemon.chunked(b"g", noise(3 * CHUNK))
    result = (await ask(daemon, "stats"))["result"]
    assert (result["files"], result["logical_bytes"]) == (2, 6 * CHUNK)
    assert result["stored_bytes"] == result["shared_bytes"] == 3 * CHUNK
    assert result["disk_bytes"] > 0


async def test_sync(daemon: Served, synced: Counting[..., dict[int, str]]) -> None:
    """`sync` syncs mapped files, reports progress, and leaves nothing to do."""
    for number in range(3):
        await daemon.written(b"%d" % number, noise(CHUNK, number))
    answer = await answer_to(daemon, b'{"command": "sync"}\n')
    assert answer[-1] == {"result": {}}
    assert answer[-2] == {"progress": {"done": 3, "total": 3}}
    assert synced.calls == [(Path("/no mount"), os.makedev(0, 99), {})]
    assert pending_files(daemon.store) == []
    assert not daemon.store.index.dirty


async def test_sync_after_a_removal(daemon: Served) -> None:
    """A file that was just removed is not stored in chunks: the disk may have no room for it."""
    inode = await daemon.written(b"f", noise(CHUNK))
    await daemon.operations.unlink(TOP, FileNameT(b"f"), ASKED)
    await daemon.operations.forget([(InodeT(inode), 1)])
    answer = await answer_to(daemon, b'{"command": "sync"}\n')
    assert answer == [{"result": {}}]  # there was no file to ingest
    assert daemon.store.inodes.find(inode) is None


async def test_gc(daemon: Served) -> None:
    """`gc` collects garbage and returns its amount; with `dry_run` it only returns it."""
    inode = await daemon.chunked(b"f", noise(30 * CHUNK))
    await daemon.set(inode, size=CHUNK)
    await daemon.background.ingest.sync()
    packs = daemon.store.packs.numbers()
    would = (await ask(daemon, "gc", dry_run=True))["result"]
    assert would["dead_chunks"] == 29
    assert would["dry_run"]
    assert daemon.store.packs.numbers() == packs
    did = (await ask(daemon, "gc"))["result"]
    assert did["dead_chunks"] == 29
    assert not did["dry_run"]
    assert not daemon.store.packs.numbers() & packs


async def test_inspect(daemon: Served) -> None:
    """`inspect` returns a report of a file and its tensors."""
    inode = await daemon.chunked(b"m.safetensors", model_of(noise(CHUNK), noise(CHUNK, 1)))
    result = (await ask(daemon, "inspect", inode=inode))["result"]
    assert result["path"] == "/m.safetensors"
    assert [tensor["name"] for tensor in result["tensors"]] == ["t0", "t1"]


@pytest.mark.parametrize(
    ("inode", "number"),
    [
        (None, errno.EINVAL),
        ("1", errno.EINVAL),
        (1.0, errno.EINVAL),
        (-1, errno.EINVAL),
        (1 << 64, errno.EINVAL),
        ((1 << 64) - 1, errno.ENOENT),
        (99, errno.ENOENT),
        (1, errno.EISDIR),
    ],
)
async def test_inspect_of_nothing(daemon: Served, inode: object, number: int) -> None:
    """An inode that is not a regular file is refused."""
    assert (await ask(daemon, "inspect", inode=inode))["errno"] == number


async def test_hold(daemon: Served) -> None:
    """Packs stay while a client holds them, and are collected when it hangs up."""
    inode = await daemon.chunked(b"f", noise(30 * CHUNK))
    await daemon.set(inode, size=CHUNK)
    await daemon.background.ingest.sync()
    packs = daemon.store.packs.numbers()
    async with trio.open_nursery() as nursery, connected(daemon) as stream:
        await stream.send_all(b'{"command": "hold"}\n')
        assert json.loads(await stream.receive_some()) == {"result": {}}
        assert not daemon.store.index.dirty
        nursery.start_soon(ask, daemon, "gc")
        await daemon.chunked(b"g", noise(CHUNK, 1))
        await wait_all_tasks_blocked(0.01)
        assert packs <= daemon.store.packs.numbers()
    assert not packs & daemon.store.packs.numbers()


async def test_hold_that_fails(daemon: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the commit before it fails, `hold` returns the error and does not block gc."""
    await daemon.written(b"f")
    apply = Failing(daemon.store.index.rows.write, OSError(errno.EIO, "broken"))
    monkeypatch.setattr(daemon.store.index.rows, "write", apply)
    assert (await ask(daemon, "hold"))["errno"] == errno.EIO
    assert "result" in await ask(daemon, "gc")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"",
        b"junk\n",
        b"\xff\xfe\x00\n",
        b"null\n",
        b"5\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "stats"',
        b'{"command": "nothing"}\n',
        b'{"command": 5}\n',
        b'{"command": ["stats"]}\n',
        b'{"command": {"stats": 1}}\n',
        b"[" * 50_000 + b"\n",
        b'{"command": "hold" "hold"}\n',
    ],
    ids=range(15),
)
async def test_junk(daemon: Served, line: bytes) -> None:
    """A line that is not a request gets EINVAL, and the next request is answered."""
    [reply] = await answer_to(daemon, line)
    assert reply["errno"] == errno.EINVAL
    assert reply["error"]
    assert "result" in await ask(daemon, "stats")


async def test_too_long_line(daemon: Served) -> None:
    """A line without an end is cut off after `REQUEST_MAX` bytes."""

    async def endless(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(b"x" * REQUEST_MAX)

    async with connected(daemon) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await endless(stream)
    assert "result" in await ask(daemon, "stats")


async def test_request_in_pieces(daemon: Served) -> None:
    """A request may come byte by byte."""
    async with connected(daemon) as stream:
        for byte in b'{"command": "stats"}\n':
            await stream.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        assert "result" in (await replies(stream))[-1]


async def test_client_that_goes_away(daemon: Served) -> None:
    """A client that hangs up before its request or its answer does not disturb others."""
    for line in (b"", b'{"comm', b'{"command": "stats"}\n', b'{"command": "hold"}\n'):
        async with connected(daemon) as stream:
            if line:
                await stream.send_all(line)
    await wait_all_tasks_blocked(0.01)
    assert "result" in await ask(daemon, "gc")


async def test_client_that_goes_away_during_a_sync(
    daemon: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync whose client is gone may end early; the next one does all of it."""
    run = Held(Worker.ingest_region)
    monkeypatch.setattr(Worker, "ingest_region", run)
    inode = await daemon.written(b"f", noise(CHUNK))
    async with connected(daemon) as stream:
        await stream.send_all(b'{"command": "sync"}\n')
        await run.reached.wait()
    run.let_go()
    assert (await ask(daemon, "sync"))["result"] == {}
    assert pending_files(daemon.store) == []
    assert await daemon.content(inode) == noise(CHUNK)


async def test_clients_do_not_wait_for_each_other(daemon: Served) -> None:
    """A client that sends nothing does not delay the answers to others."""
    async with connected(daemon), connected(daemon):
        assert "result" in await ask(daemon, "stats")


def come_from(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    """Let every client seem to be a process of a user."""
    monkeypatch.setattr(control, "peer_of", lambda _: Peer(os.getpid(), user, user))


@pytest.mark.parametrize("command", ["stats", "hold", "gc", "sync"])
async def test_other_users_are_refused(
    daemon: Served, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A process of another user than root and the store's owner gets EPERM for any command."""
    come_from(monkeypatch, os.geteuid() + 1)
    assert (await ask(daemon, command))["errno"] == errno.EPERM


async def test_root_is_answered(daemon: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root gets the same answers as the owner."""
    come_from(monkeypatch, 0)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert "result" in await ask(daemon, "stats")


async def test_command_that_fails(daemon: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails returns its error with the errno."""
    await daemon.written(b"f", noise(CHUNK))
    flush = Failing(daemon.store.packs.flush, OSError(errno.ENOSPC, "no room"))
    monkeypatch.setattr(daemon.store.packs, "flush", flush)
    reply = await ask(daemon, "sync")
    assert reply["errno"] == errno.ENOSPC
    assert "no room" in reply["error"]


async def test_bug_in_a_command(
    daemon: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a command is EIO, its traceback is in the log, and the daemon goes on."""
    usage = Failing(daemon.store.inventory.disk_usage, KeyError("a bug"))
    monkeypatch.setattr(daemon.store.inventory, "disk_usage", usage)
    assert (await ask(daemon, "stats"))["errno"] == errno.EIO
    assert [record.exc_info is not None for record in caplog.records] == [True]
    caplog.clear()
    assert "result" in await ask(daemon, "stats")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
async def test_socket_is_not_given_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trust, a file of root's that takes the socket's name at once stays root's."""
    (tmp_path / "private").touch()
    os.chown(tmp_path, 4001, 4001)
    folder = Directory(tmp_path, trust=True)

    bind = socket.socket.bind

    def bind_and_exchange(listener: socket.socket, path: str) -> None:
        bind(listener, path)
        for old, new in ((CONTROL_SOCKET, "moved"), ("private", CONTROL_SOCKET)):
            os.rename(old, new, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)

    monkeypatch.setattr(socket.socket, "bind", bind_and_exchange)
    control._listen(folder).close()
    assert (tmp_path / CONTROL_SOCKET).stat().st_uid == 0
    assert (tmp_path / "moved").stat().st_uid == 4001


async def test_socket_goes_with_the_daemon(served: Served) -> None:
    """The socket of a killed daemon is replaced, and an orderly end removes the socket."""
    path = served.store.folder / CONTROL_SOCKET
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    answering = Control(served.store, served.background, served.workers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answering.serve)
        await wait_all_tasks_blocked()
        assert "result" in await ask(served, "stats")
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_long_path(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A store whose path is too long for a socket's address has a control socket, too."""
    folder = tmp_path / ("x" * 120)
    create_store(folder)
    with checked(folder) as box:
        served = Served(box.store, nursery)
        answering = Control(served.store, served.background, served.workers)
        async with trio.open_nursery() as inner:
            inner.start_soon(answering.serve)
            await wait_all_tasks_blocked()
            fd = os.open(folder, os.O_PATH)
            stream = await trio.open_unix_socket(f"/proc/self/fd/{fd}/{CONTROL_SOCKET}")
            os.close(fd)
            async with stream:
                await stream.send_all(b'{"command": "stats"}\n')
                assert "result" in (await replies(stream))[-1]
            inner.cancel_scope.cancel()


async def test_scrub(daemon: Served, nursery: trio.Nursery) -> None:
    """`scrub` reports progress and returns its report; `scrub-status` returns it again."""
    await daemon.chunked(b"f", noise(3 * CHUNK))
    nursery.start_soon(daemon.background.scrub.run)
    *progress, last = await answer_to(daemon, b'{"command": "scrub"}\n')
    assert all("progress" in line for line in progress)
    assert (last["result"]["chunks"], last["result"]["findings"]) == (3, [])
    assert (await ask(daemon, "scrub-status"))["result"] == last["result"]


async def test_scrub_in_the_background(daemon: Served) -> None:
    """With a rate, `scrub` returns at once, and `scrub-stop` stops the scrub."""
    await daemon.chunked(b"f", noise(3 * CHUNK))
    begun = (await ask(daemon, "scrub", rate=1000))["result"]
    assert (begun["running"], begun["rate"]) == (True, 1000)
    stopped = (await ask(daemon, "scrub-stop"))["result"]
    assert (stopped["running"], stopped["rate"]) == (False, 0)


@pytest.mark.parametrize("rate", [0, 1])
async def test_scrub_whose_client_hangs_up(
    daemon: Served, nursery: trio.Nursery, rate: int
) -> None:
    """A scrub stops when the client that started it hangs up; one in the background goes on."""
    await daemon.chunked(b"f", noise(CHUNK))
    scrubbing = daemon.background.scrub
    if rate:
        scrubbing.begin(rate=rate)
    async with connected(daemon) as stream:
        await stream.send_all(b'{"command": "scrub"}\n')
        assert await stream.receive_some()
        assert scrubbing.running
    for _ in range(3):
        await wait_all_tasks_blocked()
        scrubbing._changed.notify()  # by sending progress the daemon notices that the client left
    await wait_all_tasks_blocked()
    assert scrubbing.running is bool(rate)


@pytest.mark.parametrize("rate", [-1, 1 << 63, "1", 0.5, None])
async def test_scrub_at_no_rate(daemon: Served, rate: object) -> None:
    """A rate that is no number from 0 to 2^62 is refused."""
    assert (await ask(daemon, "scrub", rate=rate))["errno"] == errno.EINVAL


async def test_requests_for_another_store_are_refused(daemon: Served) -> None:
    """A link can bring the socket into the folder of a copy: its store has another identity."""
    identity = daemon.store.directory.identity
    for store, is_mine in ((str(identity), True), (f"{identity.device}:1", False), (7, False)):
        async with connected(daemon) as stream:
            await stream.send_all(json.dumps({"command": "stats", "store": store}).encode() + b"\n")
            (reply,) = await replies(stream)
        assert ("result" in reply) == is_mine
        assert is_mine or reply["error"].endswith("which is another store")


async def test_the_socket_moves_with_the_store(
    served: Served, synced: Counting[..., dict[int, str]]
) -> None:
    """In a folder that was renamed it still answers, and it is removed there at the end."""
    moved = served.store.folder.with_name("moved")
    async with trio.open_nursery() as nursery:
        answering = Control(served.store, served.background, served.workers)
        nursery.start_soon(answering.serve)
        await wait_all_tasks_blocked()
        served.store.folder.rename(moved)
        served.store.folder.mkdir()
        (served.store.folder / CONTROL_SOCKET).touch()
        async with await trio.open_unix_socket(moved / CONTROL_SOCKET) as stream:
            await stream.send_all(b'{"command": "stats"}\n')
            assert "result" in (await replies(stream))[0]
        nursery.cancel_scope.cancel()
    assert not (moved / CONTROL_SOCKET).exists()
    assert (served.store.folder / CONTROL_SOCKET).exists()
    (served.store.folder / CONTROL_SOCKET).unlink()
    served.store.folder.rmdir()
    moved.rename(served.store.folder)


async def test_only_a_socket_is_replaced(tmp_path: Path) -> None:
    """A file or link under its name is not the socket of a killed daemon: it stays."""
    target = tmp_path / "target"
    target.write_bytes(b"content")
    path = tmp_path / CONTROL_SOCKET
    folder = Directory(tmp_path)
    path.symlink_to(target)
    with pytest.raises(StoreNotTrusted, match=f"{path} .not a socket"):
        control._listen(folder)
    path.unlink()
    control._listen(folder).close()
    control._listen(folder).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert target.read_bytes() == b"content"
