"""`modelfs cool`."""

from pathlib import Path

import pytest

from modelfs.cli.commands import cool as cool_command
from modelfs.cli.places import find_store
from tests.support.fake_daemon import Call, Fake


def test_cool(call: Call, fake: Fake, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is asked for; without a daemon there is nothing to remove."""
    monkeypatch.setattr(cool_command, "files_below", lambda _: (find_store(empty), [7, 8]))
    done = call("cool", "anything")
    assert (done.code, done.out) == (0, "no more hot: 0 files\n")
    daemon = fake(cool=[{"result": {"files": 1}}])
    done = call("cool", "anything")
    assert (done.code, done.out) == (0, "no more hot: 2 files\n")
    assert [request["inode"] for request in daemon.requests] == [7, 8]


def test_a_path_outside_of_a_mount(call: Call, tmp_path: Path) -> None:
    assert "is not in a modelfs mount" in call("cool", tmp_path).error
