"""The watchdog, and commands and requests with 10^5 rows under it: none stops the event loop."""

import dataclasses
import errno
import gc
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
import trio
from pyfuse3 import FileNameT, InodeT, XAttrNameT

from modelfs.errors import StoreFull
from modelfs.fs.background import optimize as background_optimize
from modelfs.fs.commands import Commands, Json
from modelfs.fs.requests.allocator import Allocator
from modelfs.fs.requests.changes import Changes
from modelfs.fs.requests.copier import Copier
from modelfs.fs.requests.seeker import Seeker
from modelfs.fs.watchdog import STEP_SECONDS, TaskStep, Watchdog
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.steps import pausing
from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from modelfs.store.disk.space import Space
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.window import Window
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    named_key,
    number_key,
    pair_key,
)
from tests.support.served_store import ASKED, TOKEN, TOP, Listing, Served, refused
from tests.support.stores import CHUNK, noise

ROWS: Final = 100_000
# Of inodes that do not exist: a job passes over them.
FIRST: Final = 1 << 40


def busy(seconds: float) -> None:
    """Keep the thread busy for so many seconds of CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Steps(Watchdog):
    """Collects the steps that take much CPU time; others wait for the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.long: list[TaskStep] = []

    def exceeded(self, step: TaskStep) -> None:
        if step.cpu > STEP_SECONDS:
            self.long.append(step)


@pytest.fixture
async def steps(served: Served) -> Steps:
    """The long steps after the fixtures; Python's garbage collector is not among them."""
    steps = Steps()
    await trio.lowlevel.checkpoint()
    trio.lowlevel.add_instrument(steps)
    return steps


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def commands(served: Served) -> Commands:
    return Commands(served.store, served.background, served.workers)


def fill(served: Served, table: Table, count: int = ROWS) -> None:
    """Put rows of inodes that do not exist."""
    with served.store.index.change():
        for number in range(FIRST, FIRST + count):
            served.store.index.put(table, number_key(number), number_key(1))


def empty(served: Served, *tables: Table) -> None:
    """Delete the rows of tables again, so that fsck finds none of them."""
    with served.store.index.change():
        for table in tables:
            for key in [*served.store.index.keys(table)]:
                served.store.index.delete(table, key)


async def no_progress(done: int, total: int) -> None:
    """Drop the numbers."""


# -- the watchdog


async def test_a_long_step_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the task of a long step, its wall time and its CPU time, and no short step."""
    trio.lowlevel.add_instrument(watchdog := Watchdog())
    await trio.lowlevel.checkpoint()
    time.sleep(1.2 * STEP_SECONDS)  # noqa: ASYNC251 - the fault that the watchdog finds
    await trio.lowlevel.checkpoint()
    busy(1.2 * STEP_SECONDS)
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(watchdog)
    waiting, working = caplog.messages
    pattern = r"the task .*test_a_long_step_is_logged.* kept all others waiting for (\d+) ms \(CPU "
    for message in (waiting, working):
        found = re.match(pattern, message)
        assert found is not None
        assert int(found[1]) >= 120
    assert re.search(r"\(CPU \d ms\)", waiting)
    assert re.search(r"\(CPU 1[2-9]\d ms\)", working)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    caplog.clear()


# -- commands and requests with many rows


async def test_statistics(served: Served, commands: Commands, steps: Steps) -> None:
    """`stats` counts the files that wait for jobs off the loop."""
    fill(served, Table.TO_OPTIMIZE)
    fill(served, Table.PENDING)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    result = await commands.run({"command": "stats"}, no_progress)
    await trio.lowlevel.checkpoint()
    assert (result["files_to_optimize"], result["pending_files"]) == (ROWS, ROWS)
    assert steps.long == []
    empty(served, Table.TO_OPTIMIZE, Table.PENDING)


async def test_grants_beside_many_staged_files(served: Served, steps: Steps) -> None:
    """A write that finds room or none costs the same with many staged files as with none."""
    staging = served.store.staging
    file = WindowFile(staging._files, "0-0-1", None)
    for number in range(ROWS):
        windows = {0: Window(0, 1, file, RangeSet([(0, 100)]))}
        staging.adopt(StagedFile(InodeNumber(FIRST + number), 100, 0, 0, 0, windows=windows))
    space = served.store.space = Space(served.store.folder, 64 << 20, staged=lambda: staging.bytes)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    for _ in range(20):
        space.reserve(1)
        with pytest.raises(StoreFull):
            space.reserve(1 << 30)
        with pytest.raises(StoreFull):
            space.borrow(1, 0)
    await trio.lowlevel.checkpoint()
    assert steps.long == []
    for number in range(ROWS):
        staging.find(InodeNumber(FIRST + number)).windows.clear()  # type: ignore[union-attr]
        staging.release(InodeNumber(FIRST + number))


async def test_the_begin_of_a_run(
    served: Served, commands: Commands, steps: Steps, nursery: trio.Nursery
) -> None:
    """`optimize` sums the sizes of its files off the loop."""
    fill(served, Table.TO_OPTIMIZE)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    with trio.CancelScope() as scope:

        async def progress(done: int, total: int) -> None:
            scope.cancel()

        await commands.run({"command": "optimize"}, progress)
    assert scope.cancelled_caught
    assert steps.long == []
    empty(served, Table.TO_OPTIMIZE)


async def test_the_idle_check(
    served: Served, steps: Steps, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle daemon sees without a walk whether there is anything to optimize."""
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", 0)
    monkeypatch.setattr(background_optimize, "IDLE_CHECK_SECONDS", 0.001)
    run = await nursery.start(_optimizing, served)
    with trio.fail_after(20):
        while served.background.optimize.backlog.has_work():  # noqa: ASYNC110
            await trio.sleep(0.01)
    fill(served, Table.TO_OPTIMIZE)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    await trio.sleep(0.5)
    run.cancel()
    await trio.lowlevel.checkpoint()
    assert steps.long == []
    empty(served, Table.TO_OPTIMIZE)


async def _optimizing(
    served: Served, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await served.background.optimize.run()


@pytest.mark.parametrize("how", ["by itself", "sync"])
async def test_ingest(served: Served, commands: Commands, steps: Steps, how: str) -> None:
    """Ingest lists the files with a request in pages."""
    fill(served, Table.PENDING)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    with trio.move_on_after(1):
        if how == "sync":
            await commands.run({"command": "sync"}, no_progress)
        else:
            await served.background.ingest.ingest_due()
    await trio.lowlevel.checkpoint()
    assert steps.long == []
    empty(served, Table.PENDING)


async def test_requests_are_found_page_by_page(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the requests takes the next page, and the one after the last begins again."""
    monkeypatch.setattr("modelfs.fs.background.ingest.REQUESTS_PAGE", 2)
    fill(served, Table.PENDING, 3)
    seen: list[InodeNumber] = []

    async def ingest(inodes: list[InodeNumber], *, complete: bool) -> None:
        seen.extend(inodes)

    monkeypatch.setattr(served.background.ingest, "ingest", ingest)
    for _ in range(3):
        await served.background.ingest.ingest_due()
    assert seen == [FIRST, FIRST + 1, FIRST + 2, FIRST, FIRST + 1]
    empty(served, Table.PENDING)


async def test_external_data(served: Served, steps: Steps) -> None:
    """The data files that one model names are recorded in slices."""
    model = await served.chunked(b"model", b"content")
    applier = Applier(served.store)
    file_pass = applier.begin_pass(model, complete=True)
    file_pass.places = {(ROOT, b"data %d" % number) for number in range(ROWS // 4)}
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    await served.context().driver.run(pausing(applier.record_places(file_pass)))
    await trio.lowlevel.checkpoint()
    assert len([*served.store.index.keys(Table.EXTERNAL_DATA)]) == ROWS // 4
    assert steps.long == []


async def test_attributes(served: Served, steps: Steps) -> None:
    """More attributes than the kernel lists are E2BIG at once, and each can still be read."""
    inode = await served.written(b"file")
    with served.store.index.change():
        for number in range(ROWS):
            served.store.index.put(Table.XATTRS, named_key(inode, b"user.%d" % number), b"")
        add_to_totals(served.store.index, inode, xattr_rows=ROWS)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    with refused(errno.ENODATA):
        await served.operations.getxattr(InodeT(inode), XAttrNameT(b"user.absent"), ASKED)
    with refused(7):
        await served.operations.listxattr(InodeT(inode), ASKED)
    assert await served.operations.getxattr(InodeT(inode), XAttrNameT(b"user.99999"), ASKED) == b""
    await served.operations.unlink(TOP, FileNameT(b"file"), ASKED)
    await served.operations.forget([(InodeT(inode), 1)])
    await served.background.gc.remove_orphans()
    await trio.lowlevel.checkpoint()
    assert steps.long == []


@pytest.fixture
async def of_bytes(served: Served) -> AsyncIterator[InodeNumber]:
    """A file with `ROWS` extents of one byte, and a hole of as many bytes behind them."""
    inode = await served.chunked(b"file", noise(CHUNK))
    store = served.store
    (extent,) = store.maps.within(inode, 0, CHUNK)
    node = store.inodes.get(inode)
    with store.index.change():
        for at in range(CHUNK, CHUNK + ROWS):
            row = Extent(at, extent.chunk, 0, 1)
            store.index.put(Table.EXTENTS, pair_key(inode, at), row.to_bytes())
        store.inodes.put(dataclasses.replace(node, size=CHUNK + 2 * ROWS))
        store.chunks.add_refs(extent.chunk, ROWS, ROWS)
        add_to_totals(store.index, inode, mapped=ROWS)
    await trio.lowlevel.checkpoint()
    yield inode
    await served.operations.unlink(TOP, FileNameT(b"file"), ASKED)
    await served.operations.forget([(InodeT(inode), 1)])
    await served.background.gc.remove_orphans()


async def test_a_search_for_a_hole(served: Served, steps: Steps, of_bytes: InodeNumber) -> None:
    """A hole behind many extents is found in many steps."""
    steps.long.clear()
    seeker = Seeker(served.store, served.handles)
    assert await seeker.seek(of_bytes, 5, os.SEEK_HOLE) == CHUNK + ROWS
    assert await seeker.seek(of_bytes, CHUNK + 5, os.SEEK_DATA) == CHUNK + 5
    await trio.lowlevel.checkpoint()
    assert steps.long == []


async def test_a_hole_in_place_of_many_extents(
    served: Served, steps: Steps, of_bytes: InodeNumber
) -> None:
    """Many extents are removed in many steps, and a search passes over their place."""
    steps.long.clear()
    store = served.store
    changes = Changes(store.space, served.background, commits_names=False)
    allocator = Allocator(store, served.background, changes)
    await allocator.allocate(of_bytes, 5, CHUNK + ROWS - 5, PUNCH_HOLE | KEEP_SIZE, 1)
    seeker = Seeker(store, served.handles)
    assert await seeker.seek(of_bytes, 5, os.SEEK_DATA) == CHUNK + ROWS - 5
    await trio.lowlevel.checkpoint()
    assert steps.long == []


async def test_a_copy_of_many_extents(served: Served, steps: Steps, of_bytes: InodeNumber) -> None:
    """Many extents are cloned in many steps, and one request clones some of them."""
    steps.long.clear()
    store = served.store
    changes = Changes(store.space, served.background, commits_names=False)
    copier = Copier(store, served.handles, served.background, changes, served.operations.write)
    source = served.handles.open(of_bytes, writable=False)
    inode, target = await served.created(b"copy")
    at = requests = 0
    while size := await copier.copy((source, at), (target, at), 1 << 30, 1):
        at, requests = at + size, requests + 1
    await trio.lowlevel.checkpoint()
    assert steps.long == []
    assert at == CHUNK + 2 * ROWS
    assert requests > 1
    assert store.contents.read(inode, CHUNK - 10, 30) == store.contents.read(
        of_bytes, CHUNK - 10, 30
    )
    await served.operations.release(target)
    await served.operations.release(source)


async def test_a_listing_behind_removed_names(
    served: Served, steps: Steps, listing: Listing
) -> None:
    """A listing steps over the lines of many removed names, and is whole."""
    names = [await _named(served, number) for number in range(2000)]
    await served.background.durability.commit()
    for name in names[:-1]:
        served.store.namespace.unlink(ROOT, name)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    handle = await served.operations.opendir(TOP, ASKED)
    await served.operations.readdir(handle, 0, TOKEN)
    await served.operations.releasedir(handle)
    assert listing.names == [b".", b"..", names[-1]]
    await trio.lowlevel.checkpoint()
    assert steps.long == []


async def _named(served: Served, number: int) -> bytes:
    await served.written(name := b"f%d" % number)
    return name


async def test_rare_requests(served: Served, commands: Commands, steps: Steps) -> None:
    """The other commands and statfs do not depend on the number of files that wait."""
    for table in (Table.TO_OPTIMIZE, Table.PENDING):
        fill(served, table)
    await trio.lowlevel.checkpoint()
    steps.long.clear()
    inode = await served.written(b"file", b"content")
    await served.operations.statfs(ASKED)
    requests: list[Json] = [
        {"command": "gc", "dry_run": True},
        {"command": "scrub-status"},
        {"command": "scrub-stop"},
        {"command": "inspect", "inode": inode},
        {"command": "hold"},
    ]
    for request in requests:
        await trio.lowlevel.checkpoint()
        await commands.run(request, no_progress)
    await trio.lowlevel.checkpoint()
    assert steps.long == []
    empty(served, Table.TO_OPTIMIZE, Table.PENDING)
    await served.background.durability.commit()
