"""Fixtures of defragmentation: much free space, and small portions."""

import pytest

from modelfs.jobs.defrag import order as order_module
from modelfs.store.disk.space import Room, Space
from tests.support.stores import CHUNK


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report much free space, however full the machine's disk is."""
    monkeypatch.setattr(Space, "room", lambda self: Room(1 << 40, 1 << 39, 1 << 20, 1 << 19))


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make portions small."""
    monkeypatch.setattr(order_module, "PORTION_BYTES", 32 * CHUNK)
