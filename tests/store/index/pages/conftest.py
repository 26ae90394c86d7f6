"""The data file of an index."""

from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from tests.support.small_index import put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The data file of an index with some commits."""
    index = Index(Directory(tmp_path))
    for number in range(6):
        put(index, b"%d" % number, bytes(1000))
    index.close()
    return tmp_path / "data.mdb"
