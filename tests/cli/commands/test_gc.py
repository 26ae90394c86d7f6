"""`modelfs sync` and `modelfs gc`."""

from pathlib import Path

import pytest

from modelfs.store.files.orphans import Orphans
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake
from tests.support.paths import MODELS
from tests.support.stores import ME, noise, stored_file

GARBAGE = {"dead_chunks": 3, "dead_bytes": 5 << 20, "packs": 1, "pack_bytes": 4 << 20}


@pytest.fixture
def untaken(empty: Path) -> Path:
    """A store with a model that is staged and not in chunks."""
    with Store(empty) as store:
        inode = store.namespace.create(ROOT, b"model", 0o100644, ME).inode
        store.contents.write(inode, 0, (MODELS / "base.safetensors").read_bytes())
        store.flush(inode)
    return empty


def test_sync(call: Call, untaken: Path) -> None:
    """What is staged is in chunks afterwards; nothing is said."""
    before = call("stats", untaken, "--json").json
    assert (before["pending_files"], before["chunks"]) == (1, 0)
    done = call("sync", untaken)
    assert (done.code, done.out, done.err) == (0, "", "")
    after = call("stats", untaken, "--json").json
    assert (after["pending_files"], after["staged_bytes"]) == (0, 0)
    assert after["chunks"] > 0


def test_sync_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """Of a mounted store, the daemon is asked."""
    daemon = fake(sync=[{"progress": {"done": 1, "total": 2}}, {"result": {}}])
    assert call("sync", empty).code == 0
    assert daemon.requests == [{"command": "sync"}]


def test_daemon_refuses(call: Call, fake: Fake, empty: Path) -> None:
    """What the daemon says went wrong is the error."""
    fake(sync=[{"error": "no room left", "errno": 28}])
    assert f"the daemon of {empty} says: no room left" in call("sync", empty).error


@pytest.mark.parametrize("command", ["sync", "gc"])
def test_in_use(call: Call, empty: Path, command: str) -> None:
    """A store that a process has, without answering, is told with that process."""
    with Store(empty):
        error = call(command, empty).error
    assert f"{empty} is in use by" in error
    assert "does not answer at control.sock" in error


def test_gc(call: Call, empty: Path) -> None:
    """The room of a file that was removed is given back, after a dry run has told of it."""
    with Store(empty) as store:
        stored_file(store, b"model", noise(3_000_000))
        store.namespace.unlink(ROOT, b"model")
        _reap(store.orphans)
    full = call("stats", empty, "--json").json["disk_bytes"]
    assert call("gc", empty, "--dry-run").out == (
        "would remove 3 unused chunks (2.86 MiB); free 2.87 MiB in 1 pack\n"
    )
    assert call("stats", empty, "--json").json["disk_bytes"] == full
    assert call("gc", empty).out == "removed 3 unused chunks (2.86 MiB); freed 2.87 MiB in 1 pack\n"
    assert call("stats", empty, "--json").json["disk_bytes"] < full - 2_900_000
    assert call("gc", empty).out == "nothing to collect\n"


def test_gc_removes_orphans_first(call: Call, empty: Path) -> None:
    """What a crash left of removed files is collected in the same run."""
    with Store(empty) as store:
        stored_file(store, b"model", noise(3_000_000))
        store.namespace.unlink(ROOT, b"model")
    assert "removed 3 unused chunks" in call("gc", empty).out


def test_gc_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """Of a mounted store, the daemon collects, or surveys."""
    daemon = fake(gc=[{"result": {**GARBAGE, "dry_run": False}}])
    assert call("gc", empty).out == "removed 3 unused chunks (5.00 MiB); freed 4.00 MiB in 1 pack\n"
    call("gc", "--dry-run", empty)
    assert [request["dry_run"] for request in daemon.requests] == [False, True]


def _reap(reaper: Orphans) -> None:
    for inode in reaper.orphans():
        while not reaper.reap(inode):
            pass
