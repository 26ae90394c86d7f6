"""Fixtures of stores, which are checked to be sound after the test."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from modelfs.fs.background.drive import Driver
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.pack_lock import PackLock
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, walk
from tests.support.optimized_models import GRID
from tests.support.sample_lineage import Kin
from tests.support.sample_store import CHUNK, Sample, copy_of, fill
from tests.support.stores import WINDOW, Box, checked, new_store, small_windows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new store with small chunks, not open."""
    return new_store(tmp_path)


@pytest.fixture
def box(folder: Path) -> Iterator[Box]:
    """The same store, open for writing, to crash and to open again."""
    with checked(folder) as box:
        yield box


@pytest.fixture
def opened(box: Box) -> Store:
    """The same store, open for writing."""
    return box.store


@pytest.fixture
def workers() -> trio.CapacityLimiter:
    """One worker thread."""
    return trio.CapacityLimiter(1)


@pytest.fixture
def pack_lock() -> PackLock:
    return PackLock()


@pytest.fixture
def driver(opened: Store, workers: trio.CapacityLimiter, pack_lock: PackLock) -> Driver:
    """The driver of jobs on an event loop, for the store that is open."""
    return Driver(Durability(opened, workers), workers, pack_lock)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make windows of two chunks, so that small files have many."""
    small_windows(monkeypatch, WINDOW)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a row in every table; it is copied, and never changed."""
    path = new_store(tmp_path_factory.mktemp("filled"), chunk_size=CHUNK)
    fill(path)
    return path


@pytest.fixture
def kin(sample: Sample) -> Kin:
    """The derived chunks of the sample."""
    return Kin(sample)


@pytest.fixture
def sample(filled: Path, tmp_path: Path) -> Iterator[Sample]:
    """A copy of that store, open for writing, to be damaged."""
    sample = Sample(copy_of(filled, tmp_path))
    yield sample
    sample.store.abandon()


@pytest.fixture(scope="session")
def good(filled: Path) -> Contents:
    """The content of every file of the sample."""
    with Store(filled, read_only=True) as store:
        return {
            path: store.contents.read(node.inode, 0, node.size)
            for path, inode in walk(store.dentries).items()
            if stat.S_ISREG((node := store.contents.node(InodeNumber(inode))).mode)
        }


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Box]:
    """A store with chunks of 64 KiB, large enough for deltas and planes to pay."""
    with checked(new_store(tmp_path, chunk_size=GRID)) as box:
        yield box
