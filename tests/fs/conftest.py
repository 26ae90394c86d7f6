"""Fixtures: the handlers of a store that `fsck` finds sound after each test."""

import logging
import time
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from modelfs.fs.background import mapped_pages, scheduler
from modelfs.fs.background.durability import COMMIT_SECONDS
from modelfs.jobs.ingest import job
from modelfs.store.index import memtable
from tests.support import stores
from tests.support.served_store import Counting, Held, Listing, Served
from tests.support.stores import CHUNK, Box


@pytest.fixture(autouse=True)
def no_unexpected_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that logs a warning and does not call `caplog.clear()`."""
    yield
    assert [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING] == []


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make windows one chunk long, so that short files are handled like long ones."""
    stores.small_windows(monkeypatch, CHUNK)
    monkeypatch.setattr(job, "ROUND_BYTES", 2 * CHUNK)


@pytest.fixture
def served(box: Box, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Served:
    """A store behind its request handlers, without a kernel in front of them."""
    monkeypatch.setattr(mapped_pages, "sync_mapped_files", lambda *_: {})
    return Served(box.store, nursery)


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Listing:
    """The entries that readdir passes to the kernel."""
    listing = Listing()
    monkeypatch.setattr("modelfs.fs.requests.operations.pyfuse3.readdir_reply", listing)
    return listing


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps once all tasks and threads have been idle for a moment."""
    return MockClock(autojump_threshold=0.005)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch, served: Served) -> Counting[..., None]:
    """The calls that fill a buffer on a thread."""
    fill = Counting(served.store.contents.fill)
    monkeypatch.setattr(served.store.contents, "fill", fill)
    return fill


@pytest.fixture
def applied(served: Served, monkeypatch: pytest.MonkeyPatch) -> Counting[..., None]:
    """The commits that reach LMDB."""
    counting = Counting(served.store.index.rows.write)
    monkeypatch.setattr(served.store.index.rows, "write", counting)
    return counting


@pytest.fixture
def held_commit(served: Served, monkeypatch: pytest.MonkeyPatch) -> Held[..., None]:
    """Let the first commit wait on its thread."""
    held = Held(served.store.index.rows.write)
    monkeypatch.setattr(served.store.index.rows, "write", held)
    return held


def _now() -> float:
    """Return the time of trio's clock, and that of the real clock after the end of the run."""
    try:
        return trio.current_time()
    except RuntimeError:
        return time.monotonic()


@pytest.fixture
async def running(
    served: Served, clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> Served:
    """A store whose background jobs run, on a clock that jumps if the test asks for it."""
    monkeypatch.setattr(scheduler, "COLLECT_SECONDS", COMMIT_SECONDS)
    served.store.commit()  # what has changed so far has a time of the real clock
    monkeypatch.setattr(memtable, "monotonic", _now)
    served.background.start()
    nursery.start_soon(served.background.run)
    return served
