"""`modelfs sync`."""

from pathlib import Path

import pytest

from modelfs.errors import LostBytes
from modelfs.jobs.ingest.passes import Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake
from tests.support.paths import MODELS
from tests.support.stores import new_file


@pytest.fixture
def staged(empty: Path) -> Path:
    """A store with a model that is staged and not in chunks."""
    with Store(empty) as store:
        new_file(store, b"model", (MODELS / "base.safetensors").read_bytes())
    return empty


def test_sync(call: Call, staged: Path) -> None:
    """Staged files are in chunks afterwards, and there is no output."""
    before = call("stats", staged, "--json").json
    assert (before["pending_files"], before["chunks"]) == (1, 0)
    done = call("sync", staged)
    assert (done.code, done.out, done.err) == (0, "", "")
    after = call("stats", staged, "--json").json
    assert (after["pending_files"], after["staged_bytes"]) == (0, 0)
    assert after["chunks"] > 0


def test_a_file_that_fails_is_named(
    call: Call, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the path of a file that cannot be stored, the reason and the next step."""

    def lost(self: Worker, region: Region, writer: ChunkWriter) -> bool:
        raise LostBytes("10 bytes are lost")

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "ingest_region", lost)
        error = call("sync", staged).error
    assert "cannot store /model in chunks: 10 bytes are lost; write these bytes again" in error
    assert call("sync", staged).code == 0


def test_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """For a mounted store, the daemon does the work."""
    daemon = fake(sync=[{"progress": {"done": 1, "total": 2}}, {"result": {}}])
    assert call("sync", empty).code == 0
    assert daemon.requests == [{"command": "sync"}]


def test_daemon_refuses(call: Call, fake: Fake, empty: Path) -> None:
    """The daemon's error is the command's error."""
    fake(sync=[{"error": "no room left", "errno": 28}])
    assert f"the daemon of {empty} reports: no room left" in call("sync", empty).error
