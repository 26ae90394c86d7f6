"""Fixtures of the tests of the index."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from tests.support.small_index import put


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index with one committed row."""
    index = Index(Directory(tmp_path))
    put(index, b"a", b"1")
    yield index
    index.close()
