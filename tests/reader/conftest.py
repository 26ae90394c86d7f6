"""A store to read: made and closed by one fixture, opened by another."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelfs
from modelfs.reader.connection import Connection
from modelfs.store.store import Store
from tests.support.connections import DATA
from tests.support.filled_reader import Fill, Make
from tests.support.stores import check_closed, new_store, stored_file


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """An empty, closed store with small chunks; sound after the test."""
    path = new_store(tmp_path)
    yield path
    gc.collect()
    assert check_closed(path) == []


@pytest.fixture
def one_file(path: Path) -> None:
    """Put one file, `file`, into the store."""
    with Store(path) as store:
        stored_file(store, b"file", DATA)


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """Fills the store, and returns a reader of it."""
    readers: list[modelfs.Reader] = []

    def make(fill: Fill) -> modelfs.Reader:
        with Store(path) as store:
            fill(store)
        readers.append(modelfs.open(path))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    """A connection to the store, closed after the test."""
    connection = Connection(path)
    yield connection
    connection.close()
