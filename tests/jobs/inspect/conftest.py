"""Fixtures of reports: a store with the sample models."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.run_jobs import ingest_all
from tests.support.stores import Box, checked, new_file, new_store


@pytest.fixture
def family_box(tmp_path: Path) -> Iterator[Box]:
    """A store that holds the sample models."""
    with checked(new_store(tmp_path, chunk_size=1 << 20)) as box:
        for source in sorted(MODELS.iterdir()):
            new_file(box.store, source.name.encode(), source.read_bytes())
        ingest_all(box.store)
        yield box


@pytest.fixture
def family(family_box: Box) -> Store:
    """The same, just to use."""
    return family_box.store
