"""Requests that wait for room, while ingest and gc make some."""

import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pyfuse3 import FileNameT, InodeT
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import Interrupted, StoreFull
from modelfs.fs.background import rounds
from modelfs.fs.background import shortage as background_shortage
from modelfs.fs.background.rounds import RoundResult, Rounds
from modelfs.fs.host.pending_signals import is_ending
from modelfs.jobs.gc.collector import Garbage
from tests.support.served_store import ASKED, TOP, Failing, Served, named, refused, until
from tests.support.stores import Box, checked, new_store, noise

MB = 1 << 20


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A store with chunks that take little of the index, and with a limit.

    24 MiB of the limit are the reserve, and 6 MiB the floor.
    """
    with checked(new_store(tmp_path, chunk_size=256 << 10), limit=96 * MB) as box:
        yield box


@pytest.fixture
async def short(running: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """That store, with little room for a round to make."""
    monkeypatch.setattr(rounds, "ROOM_MIN", MB)
    await wait_all_tasks_blocked()
    return running


async def write(served: Served, name: bytes, data: bytes) -> None:
    """Write a file in pieces, as programs do."""
    _, handle = await served.created(name)
    for start in range(0, len(data), MB):
        piece = data[start : start + MB]
        assert await served.operations.write(handle, start, piece) == len(piece)
    await served.operations.release(handle)


async def test_staged_bytes_are_ingested(short: Served) -> None:
    """A file larger than the staged bytes that have room is written, while parts are ingested."""
    data = noise(60 * MB)
    await write(short, b"f", data)
    assert await short.content(await short.looked_up(b"f")) == data


async def test_a_copy_fits_into_a_full_store(
    short: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A second copy of a stored file fits where new content does not; the limit is not passed."""
    data = noise(40 * MB)
    await write(short, b"f", data)
    with refused(errno.ENOSPC):
        await write(short, b"noise", noise(60 * MB, 1))
    await write(short, b"copy", data)
    caplog.clear()
    short.store.space.measure()
    assert short.store.space.room().free == 0
    assert short.store.inventory.disk_usage() < 96 * MB
    assert await short.content(await short.looked_up(b"copy")) == data


async def test_garbage_is_collected(short: Served) -> None:
    """A write that finds no room gets that of a file that was removed a moment ago."""
    await write(short, b"old", noise(50 * MB))
    await short.background.ingest.sync()
    gone = await short.looked_up(b"old")
    await short.operations.unlink(TOP, FileNameT(b"old"), ASKED)
    await short.operations.forget([(InodeT(gone), 2)])
    await write(short, b"new", noise(50 * MB, 1))
    assert await short.content(await short.looked_up(b"new")) == noise(50 * MB, 1)


async def test_the_wait_ends_when_nothing_is_gained(
    short: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Without staged bytes and garbage, a write of new content is ENOSPC at once."""
    with refused(errno.ENOSPC):
        await write(short, b"f", noise(90 * MB))
    began = trio.current_time()
    with refused(errno.ENOSPC):
        await write(short, b"g", noise(30 * MB, 1))
    assert trio.current_time() - began < 5
    await short.operations.unlink(TOP, named("f"), ASKED)
    caplog.clear()


async def stuck() -> None:
    """Stand for a step of a round that does not end."""
    await trio.sleep_forever()


async def test_the_wait_is_bounded(short: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that takes too long ends with ENOSPC."""
    monkeypatch.setattr(background_shortage, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr(short.background.ingest, "ingest_all", stuck)
    began = trio.current_time()
    with pytest.raises(StoreFull):
        await short.background.shortage.reserve(90 * MB)
    assert trio.current_time() - began == pytest.approx(0.5, abs=0.4)


async def test_few_requests_wait(short: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many requests may wait that others are still answered; the next one is refused at once."""
    monkeypatch.setattr(short.background.ingest, "ingest_all", stuck)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(StoreFull):
                await short.background.shortage.reserve(90 * MB)

        for _ in range(background_shortage.WAITING_MAX):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await wait()
        assert trio.current_time() - began < 0.1
        short.background.shortage.stop_waiting()
    assert trio.current_time() - began < 1


async def test_the_end_of_the_program_ends_the_wait(
    short: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait ends soon after the program got a signal that ends it."""
    monkeypatch.setattr(short.background.ingest, "ingest_all", stuck)
    program = await trio.lowlevel.open_process([sys.executable, "-c", "input()"], stdin=-1)
    # A stopped program does not take a signal, just as one that waits for the mount.
    program.send_signal(signal.SIGSTOP)
    program.send_signal(signal.SIGTERM)
    await until(lambda: is_ending(program.pid))
    with pytest.raises(Interrupted):
        await short.background.shortage.reserve(90 * MB, program.pid)
    program.kill()
    await program.wait()
    assert not is_ending(program.pid)
    assert not is_ending(os.getpid())


async def test_the_thread_that_opened_the_file_may_end(
    short: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait ends with the program, although the thread that opened the file ended meanwhile."""
    thread, process = 1 << 30, 1 << 31  # no numbers of the kernel
    looked_at: list[int] = []

    def ends(pid: int) -> bool:
        looked_at.append(pid)
        return pid == process and len(looked_at) > 4

    monkeypatch.setattr(short.background.ingest, "ingest_all", stuck)
    monkeypatch.setattr(background_shortage, "process_of", {thread: process}.__getitem__)
    monkeypatch.setattr(background_shortage, "is_ending", ends)
    with pytest.raises(Interrupted):
        await short.background.shortage.reserve(90 * MB, thread)
    assert set(looked_at) == {thread, process}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_write_that_the_disk_refuses_waits(
    short: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """A write that the disk refuses is tried again if room was made, and else its error."""
    await write(short, b"staged", noise(MB))
    failing = Failing(short.writer.write, OSError(number, "full"), 1, 3)
    monkeypatch.setattr(short.writer, "write", failing)
    _, handle = await short.created(b"f")
    assert await short.operations.write(handle, 0, b"data") == 4
    assert failing.calls == 2
    await short.background.ingest.ingest_all()
    with refused(number):
        await short.operations.write(handle, 0, b"more")
    await short.operations.release(handle)
    caplog.clear()


async def test_a_request_looks_for_room_itself(
    short: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that appears during a long round is granted before its end."""
    background = short.background
    monkeypatch.setattr(background.gc, "remove_orphans", trio.sleep_forever)
    reserve = Failing(short.store.space.reserve, StoreFull("full"), 1, 2, 3)
    monkeypatch.setattr(short.store.space, "reserve", reserve)
    with trio.fail_after(10):
        await background.shortage.reserve(MB)
    short.store.space.arrive(MB, 0)
    assert reserve.calls == 4


async def test_an_urgent_request_waits_for_one_round(
    short: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While mapped files are synced, a request that finds no room after a round has its error."""
    shortage = short.background.shortage
    calls: list[Rounds] = []

    async def make_room(self: Rounds) -> RoundResult:
        calls.append(self)
        return RoundResult(made_room=True, grew=True)

    monkeypatch.setattr(Rounds, "make_room", make_room)
    with shortage.urgent(), pytest.raises(StoreFull), trio.fail_after(10):
        await shortage.reserve(90 * MB)
    assert len(calls) == 1


async def test_a_round_waits_for_no_reader(short: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection for a waiting request ends when a reader pins the packs."""
    gc, lock = short.background.gc, short.background.pack_lock
    surveyed = dataclasses.replace(await gc.survey(), dead_bytes=9 * MB, pack_bytes=9 * MB)

    async def pin() -> None:
        async with lock.pinned():
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:

        async def survey(_: float) -> Garbage:
            nursery.start_soon(pin)
            await wait_all_tasks_blocked()
            return surveyed

        monkeypatch.setattr(gc, "survey", survey)
        with trio.fail_after(10):
            await gc.collect_for_room(lambda: False)
        nursery.cancel_scope.cancel()
