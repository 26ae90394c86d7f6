"""Fixtures of repair: chains of derived chunks, a round, and a store whose last commit counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.jobs.check.reported import Reported
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.store import Store
from tests.support.derived_chain import chain_in
from tests.support.sample_store import Sample
from tests.support.stores import new_file, noise


@pytest.fixture
def chain(folder: Path) -> Iterator[Store]:
    """A chain of which each chunk is in one place."""
    with chain_in(folder, one_copy=True) as store:
        yield store


@pytest.fixture
def copied(folder: Path) -> Iterator[Store]:
    """The same chain; 2 and 3 are also there as they were first stored, plain."""
    with chain_in(folder, one_copy=False) as store:
        yield store


@pytest.fixture
def context(sample: Sample) -> Iterator[RepairContext]:
    """A round of repair; its changes are never committed."""
    with sample.store.index.change():
        yield RepairContext(sample.store, Quarantine(sample.store.directory), Reported())
    sample.store.abandon()


@pytest.fixture
def closed(sample: Sample) -> Path:
    """A store whose last commit has staged a new file."""
    inode = new_file(sample.store, b"acknowledged", noise(5000, 8))
    sample.store.flush(inode)
    sample.store.commit()
    sample.store.abandon()
    return sample.path
