"""Fixtures of repair: chains of derived chunks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.store import Store
from tests.support.derived_chain import chain_in


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
