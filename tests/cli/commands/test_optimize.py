"""`modelfs optimize`."""

from pathlib import Path

import pytest

from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import Worker
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.tables import Table
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake, Reply
from tests.support.paths import MODELS
from tests.support.stores import new_file, overwrite

REPORT: Reply = {
    "logical_bytes": 4096,
    "stored_before": 2048,
    "stored_after": 512,
    "damaged": 0,
    "forms": {},
}


def test_a_family_gets_smaller(call: Call, family: Path) -> None:
    """The output has the sizes before and after; a second run finds nothing to do."""
    done = call("optimize", family)
    assert done.code == 0
    assert done.err == ""
    assert " before, " in done.out
    assert " now (" in done.out
    again = call("optimize", family)
    assert again.out.startswith("nothing got smaller: ")
    assert call("fsck", "--data", family).code == 0


def test_staged_files_are_ingested_first(call: Call, empty: Path) -> None:
    """A file that was just written is optimized, too."""
    with Store(empty) as store:
        new_file(store, b"base", (MODELS / "base.safetensors").read_bytes())
    report = call("optimize", "--json", empty).json
    assert report["stored_after"] < 0.9 * report["logical_bytes"]
    assert "planes" in report["forms"]


def test_an_empty_store(call: Call, empty: Path) -> None:
    """Nothing to do is no error."""
    assert call("optimize", empty).out == "nothing got smaller: 0 B stored\n"


def test_interrupted(call: Call, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C keeps the finished work; the next call does the rest."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 2)
    work, calls = Worker.work, []

    def interrupted(self: Worker, batch: Batch, writer: ChunkWriter) -> BatchResult:
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work(self, batch, writer)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "work", interrupted)
        done = call("optimize", family)
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith(f"continue with: modelfs optimize {family}\n")
    assert call("fsck", "--data", family).code == 0
    with Store(family, read_only=True) as store:
        assert Backlog(store).status().files
    assert call("optimize", family).code == 0
    with Store(family, read_only=True) as store:
        assert not list(store.index.pages(Table.TO_OPTIMIZE))


def test_damage(call: Call, family: Path) -> None:
    """Damaged chunks are left as they are, and counted in a warning."""
    (pack,) = (family / "packs").iterdir()
    overwrite(pack, 40_000, b"damage")
    done = call("optimize", family)
    assert done.code == 0
    assert "skipped damaged chunks and tensors (" in done.err
    assert call("optimize", "--json", "--again", family).json["damaged"] > 0


def test_depth_is_remembered(call: Call, family: Path) -> None:
    """The store keeps the allowed length of chains of deltas."""
    assert call("optimize", "--depth", "2", family).code == 0
    with Store(family, read_only=True) as store:
        assert Backlog(store).depth == 2
    assert call("optimize", "--depth", "0", family).code == 2


def test_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """For a mounted store, the daemon does the work."""
    replies = {
        "optimize-room": [{"result": {"needed": 5 << 20, "least": 1 << 20, "free": 3 << 20}}],
        "optimize": [{"progress": {"done": 1, "total": 4}}, {"result": REPORT}],
    }
    daemon = fake(**replies)
    done = call("optimize", empty)
    assert done.out == "2.00 KiB before, 512 B now (25.0 %)\n"
    assert done.err == (
        "optimizing in small portions: 3.00 MiB are free with the reserve of the store, which "
        "df(1) leaves out; in the usual portions it would take up to 5.00 MiB\n"
    )
    assert call("optimize", "--depth", "2", empty).code == 0
    assert daemon.requests == [
        {"command": "optimize-room"},
        {"command": "optimize", "again": False},
        {"command": "optimize-room"},
        {"command": "optimize", "depth": 2, "again": False},
    ]


def test_too_little_room(call: Call, fake: Fake, empty: Path) -> None:
    """With too little room for a single batch, nothing is begun, and the error has both sizes."""
    room = {"needed": 500 << 20, "least": 8 << 20, "free": 3 << 20}
    daemon = fake(**{"optimize-room": [{"result": room}]})
    assert "needs 8.00 MiB at least, and 3.00 MiB are free" in call("optimize", empty).error
    assert daemon.requests == [{"command": "optimize-room"}]
