"""Fixtures that give a test a store that is found sound after it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.store import Store
from tests.store.stores import Box, checked, new_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh store with small chunks that nobody has opened."""
    return new_store(tmp_path)


@pytest.fixture
def box(folder: Path) -> Iterator[Box]:
    """The same, open for writing, to crash and to open again."""
    with checked(folder) as box:
        yield box


@pytest.fixture
def opened(box: Box) -> Store:
    """The same, just to use."""
    return box.store
