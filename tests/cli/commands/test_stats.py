"""`modelfs stats`."""

import json
from pathlib import Path

from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake
from tests.support.mounts import modelfs
from tests.support.paths import MODELS
from tests.support.sample_store import CHUNK, fill
from tests.support.stores import new_file, new_store

KEYS = [
    *("files", "logical_bytes", "stored_bytes", "disk_bytes", "chunks", "shared_bytes"),
    *("staged_bytes", "pending_files", "files_to_optimize", "base_only_chunks", "base_only_bytes"),
    *("lost_chunks", "lost_bytes", "hot_files", "hot_bytes", "forms", "cache"),
    *("unsettled_files", "held_chunks", "held_bytes"),  # older names of some of the keys
]
STATISTICS = {
    **dict.fromkeys(KEYS, 1),
    "lost_chunks": 0,
    "lost_bytes": 0,
    "hot_files": 0,
    "hot_bytes": 0,
    "logical_bytes": 2 << 30,
    "stored_bytes": 1 << 29,
    "forms": {"zstd": {"chunks": 7, "raw_bytes": 2 << 30, "stored_bytes": 1 << 29}},
    "cache": {"hits": 30, "misses": 5, "bytes": 1 << 20, "capacity": 1 << 28},
}


def test_empty_store(call: Call, empty: Path) -> None:
    """An empty store is called empty, and all its numbers but the disk's are 0."""
    assert "the store is empty" in call("stats", empty).out
    found = call("stats", empty, "--json").json
    assert found["disk_bytes"] > 0
    assert not any(found[key] for key in KEYS if key not in ("disk_bytes", "cache"))


def test_keys(call: Call, family: Path) -> None:
    """The JSON has the same keys in the same order, for any content."""
    found = call("stats", family, "--json").json
    assert list(found) == KEYS
    assert list(found["cache"]) == ["hits", "misses", "bytes", "capacity"]
    assert all(
        list(form) == ["chunks", "raw_bytes", "stored_bytes"] for form in found["forms"].values()
    )


def test_numbers(call: Call, family: Path) -> None:
    """The numbers are those of the stored files."""
    found = call("stats", family, "--json").json
    sizes = [path.stat().st_size for path in MODELS.iterdir()]
    assert (found["files"], found["logical_bytes"]) == (len(sizes), sum(sizes))
    assert 0 < found["stored_bytes"] < sum(sizes)


def test_table(call: Call, family: Path) -> None:
    """The table has the saved space, and a line for each form."""
    out = call("stats", family).out
    assert "times smaller" in out
    assert all(form in out for form in ("plain", "zstd"))
    assert "\x1b" not in out


def test_base_only(call: Call, tmp_path: Path) -> None:
    """Chunks that are kept only as bases have a line of their own."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    fill(path)
    out = call("stats", path).out
    assert "64.0 KiB in 1 chunk of deleted files" in out
    assert "files: run `modelfs optimize`" in out


def test_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """For a mounted store, the daemon's numbers are shown."""
    daemon = fake(stats=[{"result": STATISTICS}])
    assert call("stats", empty, "--json").json == STATISTICS
    out = call("stats", empty).out
    assert daemon.requests == [{"command": "stats"}] * 2
    assert "1.50 GiB, 75.0 %: 4.0 times smaller" in out
    assert "lost" not in out
    assert "1.00 MiB of 256 MiB, 30 hits, 5 misses" in out
    assert "not in chunks yet" in out


def test_lost_bytes(call: Call, fake: Fake, empty: Path) -> None:
    """While content is lost, its size is not counted as saved."""
    fake(stats=[{"result": {**STATISTICS, "lost_chunks": 2, "lost_bytes": 3 << 20}}])
    out = call("stats", empty).out
    assert "3.00 MiB: `modelfs fsck` lists the affected files" in out
    assert "saved  " not in out


def test_reading_beside_a_writer(empty: Path) -> None:
    """Without a daemon, the numbers are those of the last commit."""
    with Store(empty) as store:
        new_file(store, b"one")
        store.commit()
        new_file(store, b"more")
        assert json.loads(modelfs("stats", empty, "--json"))["files"] == 1
