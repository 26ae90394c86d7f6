"""Truncations: by setattr and by open, and pages of mappings behind the cut."""

import os
from functools import partial
from pathlib import Path

import pytest
import trio
from pyfuse3 import FlagT, InodeT

from modelfs.fs.background import mapped_pages
from modelfs.store.index.tables import InodeNumber
from tests.support.served_store import ASKED, DATA, DEADLINE, Held, Served, all_synced
from tests.support.stores import CHUNK


@pytest.mark.parametrize("size", [0, 1, CHUNK, len(DATA), len(DATA) + 1, 10**15])
@pytest.mark.parametrize("ingested", [False, True])
async def test_truncate(served: Served, size: int, *, ingested: bool) -> None:
    """A truncated file has its bytes up to the new size, and an extended one zeros behind them."""
    inode = await (served.chunked if ingested else served.written)(b"f", DATA)
    entry = await served.set(inode, size=size)
    assert entry.st_size == size
    handle = served.handles.open(inode, writable=False)
    part = bytes(await served.operations.read(handle, 0, len(DATA) + 5))
    assert part == DATA[:size].ljust(min(size, len(DATA) + 5), b"\0")
    await served.background.ingest.sync()
    assert bytes(await served.operations.read(handle, 0, len(DATA) + 5)) == part


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
async def test_open_truncates(served: Served, access: int) -> None:
    """O_TRUNC empties a file, also with O_RDONLY."""
    inode = await served.chunked(b"f", DATA)
    info = await served.operations.open(InodeT(inode), FlagT(access | os.O_TRUNC), ASKED)
    assert (await served.operations.getattr(InodeT(inode), ASKED)).st_size == 0
    await served.operations.release(info.fh)
    await served.background.ingest.sync()
    assert await served.content(inode) == b""


async def test_open_truncates_after_pages_of_mappings(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O_TRUNC first waits for the pages of mappings, and then empties the file."""
    inode, handle = await served.created(b"f", DATA)
    asked: list[tuple[InodeNumber, bytes]] = []

    def sync(_: Path, device: int, paths: dict[InodeNumber, bytes]) -> dict[InodeNumber, str]:
        asked.extend(paths.items())
        trio.from_thread.run(served.operations.write, handle, 0, b"late")
        return {}

    monkeypatch.setattr(mapped_pages, "sync_mapped_files", sync)
    await served.operations.open(InodeT(inode), FlagT(os.O_RDWR | os.O_TRUNC), ASKED)
    assert asked == [(inode, b"/f")]
    assert await served.content(inode) == b""


async def test_open_truncates_though_many_wait(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many opens wait for the kernel's pages that requests stay free to receive them."""
    inode, _ = await served.created(b"f", DATA)
    held = Held(all_synced)
    monkeypatch.setattr(mapped_pages, "sync_mapped_files", held)
    monkeypatch.setattr(served.background.mapped_pages, "_waiting", trio.CapacityLimiter(1))
    truncate = partial(served.operations.open, InodeT(inode), FlagT(os.O_RDWR | os.O_TRUNC), ASKED)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(truncate)
            await held.reached.wait()
            await truncate()
            held.let_go()
    assert await served.content(inode) == b""


async def test_a_daemon_that_ends_waits_for_no_pages(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the daemon ends, no open waits for pages, neither one under way nor a later one."""
    inode, _ = await served.created(b"f", DATA)
    held = Held(all_synced)
    monkeypatch.setattr(mapped_pages, "sync_mapped_files", held)
    truncate = partial(served.operations.open, InodeT(inode), FlagT(os.O_RDWR | os.O_TRUNC), ASKED)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(truncate)
            await held.reached.wait()
            served.background.mapped_pages.stop()
        await truncate()
    held.let_go()
    assert await served.content(inode) == b""
