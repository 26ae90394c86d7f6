"""`modelfs gc`."""

from pathlib import Path

from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake
from tests.support.optimized_models import put, real, remove
from tests.support.run_jobs import drain
from tests.support.stores import noise, stored_file

GARBAGE = {"dead_chunks": 3, "dead_bytes": 5 << 20, "packs": 1, "pack_bytes": 4 << 20}


def test_room_is_freed(call: Call, empty: Path) -> None:
    """The room of a deleted file is freed; a dry run shows it before."""
    with Store(empty) as store:
        stored_file(store, b"model", noise(3_000_000))
        drain(store.orphans.remove(store.namespace.unlink(ROOT, b"model")))
    full = call("stats", empty, "--json").json["disk_bytes"]
    assert call("gc", empty, "--dry-run").out == (
        "would remove 3 unused chunks (2.86 MiB) and free 2.87 MiB in 1 pack\n"
    )
    assert call("stats", empty, "--json").json["disk_bytes"] == full
    assert call("gc", empty).out == (
        "removed 3 unused chunks (2.86 MiB) and freed 2.87 MiB in 1 pack\n"
    )
    assert call("stats", empty, "--json").json["disk_bytes"] < full - 2_900_000
    assert call("gc", empty).out == "nothing to collect\n"


def test_bases_are_freed(call: Call, empty: Path) -> None:
    """Chunks that only derived chunks need are freed, and were announced."""
    with Store(empty) as store:
        for name in ("base", "finetune"):
            put(store, name, real(f"{name}.safetensors"))
        remove(store, b"base")
    assert ", 4 base-only chunks and free about " in call("gc", empty, "--dry-run").out
    full = call("stats", empty, "--json").json["disk_bytes"]
    assert ", 4 base-only chunks and freed " in call("gc", empty).out
    assert call("stats", empty, "--json").json["disk_bytes"] < full - 200_000
    assert call("gc", empty).out == "nothing to collect\n"


def test_removes_orphans_first(call: Call, empty: Path) -> None:
    """Inodes of deleted files that a crash left are collected in the same run."""
    with Store(empty) as store:
        stored_file(store, b"model", noise(3_000_000))
        store.namespace.unlink(ROOT, b"model")
    assert "removed 3 unused chunks" in call("gc", empty).out


def test_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """For a mounted store, the daemon collects, or surveys."""
    daemon = fake(gc=[{"result": {**GARBAGE, "dry_run": False}}])
    assert call("gc", empty).out == (
        "removed 3 unused chunks (5.00 MiB) and freed 4.00 MiB in 1 pack\n"
    )
    call("gc", "--dry-run", empty)
    assert [request["dry_run"] for request in daemon.requests] == [False, True]
