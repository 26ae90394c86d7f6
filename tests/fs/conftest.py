"""Fixtures that give a test the handlers of a store that is found sound after it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import trio
from trio.testing import MockClock

from modelfs.fs import ingesting
from tests.fs.serving import Counting, Listing, Served
from tests.store import stores
from tests.store.stores import CHUNK, Box, checked, new_store


@pytest.fixture(autouse=True)
def no_unexpected_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that logs a warning it did not announce with `caplog.clear()`."""
    yield
    assert [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING] == []


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windows be of one chunk, so that short files are treated as long ones are."""
    stores.small_windows(monkeypatch, CHUNK)
    module: ModuleType = ingesting
    monkeypatch.setattr(module, "WINDOW", CHUNK)
    monkeypatch.setattr(module, "ROUND_BYTES", 2 * CHUNK)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A store with small chunks, checked after the test, to crash and to open again."""
    with checked(new_store(tmp_path)) as box:
        yield box


@pytest.fixture
def served(box: Box, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The same, behind its handlers, and with no kernel in front of them."""
    monkeypatch.setattr("modelfs.fs.operations.take_pages", lambda inode: None)
    return Served(box.store, nursery)


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Listing:
    """What readdir tells the kernel."""
    listing = Listing()
    monkeypatch.setattr("modelfs.fs.operations.pyfuse3.readdir_reply", listing)
    return listing


@pytest.fixture
def clock() -> MockClock:
    """Time that passes when nothing has happened for a moment: threads have done their work."""
    return MockClock(autojump_threshold=0.005)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch, served: Served) -> Counting[..., None]:
    """The calls that fill a buffer on a thread."""
    fill = Counting(served.store.contents.fill)
    monkeypatch.setattr(served.store.contents, "fill", fill)
    return fill
