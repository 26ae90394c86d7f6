"""A store whose control socket no daemon answers."""

import os
from pathlib import Path

import pytest

from modelfs.store.store import Store
from tests.support.fake_daemon import Call


@pytest.mark.parametrize("command", ["sync", "gc", "optimize", "scrub", "fsck"])
def test_locked(call: Call, empty: Path, command: str) -> None:
    """The error about a locked store names the process that does not answer."""
    with Store(empty):
        error = call(command, empty).error
    assert f"{empty} is locked by process {os.getpid()}" in error
    assert "does not answer at control.sock" in error
