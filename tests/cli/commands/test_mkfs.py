"""`modelfs mkfs`."""

import os
from pathlib import Path

import pytest

from modelfs.store.store import Store
from tests.support.fake_daemon import Call


def test_mkfs(call: Call, tmp_path: Path) -> None:
    """A new store is private, and the output names the next command."""
    done = call("mkfs", tmp_path / "new")
    assert done.code == 0
    assert f"modelfs mount {tmp_path / 'new'} MOUNTPOINT" in done.out
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert call("stats", tmp_path / "new").code == 0


def test_chunk_size(call: Call, tmp_path: Path) -> None:
    """The store has the requested chunk size."""
    assert call("mkfs", tmp_path / "new", "--chunk-size", "64KiB").code == 0
    with Store(tmp_path / "new", read_only=True) as store:
        assert store.superblock.chunk_size == 64 << 10


@pytest.mark.parametrize("size", ["1", "4097", "2GiB", "-4096", "lots"])
def test_chunk_sizes_refused(call: Call, tmp_path: Path, size: str) -> None:
    """A chunk size that no store can have is wrong usage, and no store is created."""
    done = call("mkfs", tmp_path / "new", f"--chunk-size={size}")
    assert done.code == 2
    assert "--chunk-size" in done.error
    assert not (tmp_path / "new").exists()


def test_refusals(call: Call, tmp_path: Path, empty: Path) -> None:
    """An existing file or folder is named in the error, and stays as it is."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("x")
    (tmp_path / "file").write_text("x")
    assert "is a modelfs store already; mount it" in call("mkfs", empty).error
    assert "is not empty; name a new" in call("mkfs", tmp_path / "full").error
    assert "is not a folder; name a new" in call("mkfs", tmp_path / "file").error
    missing = tmp_path / "no" / "where"
    assert f"create it with: mkdir -p {missing.parent}" in call("mkfs", missing).error
    assert (tmp_path / "full" / "thesis").read_text() == "x"


def test_a_path_with_spaces(call: Call, tmp_path: Path) -> None:
    """Its commands in messages can be pasted into a shell."""
    missing = tmp_path / "no  where"
    error = call("mkfs", missing / "new").error
    assert error.endswith(f"create it with: mkdir -p '{missing}'")
    missing.mkdir()
    done = call("mkfs", missing / "new")
    assert done.out.endswith(f"next: modelfs mount '{missing}/new' MOUNTPOINT\n")


def test_inside_a_store(call: Call, tmp_path: Path, empty: Path) -> None:
    """No store is made in the folder of another one, at any depth or by a link; in /tmp it is."""
    before = set(empty.rglob("*"))
    (tmp_path / "link").symlink_to(empty / "packs")
    for place in (empty / "new", empty / "packs" / "deep", tmp_path / "link" / "new"):
        error = call("mkfs", place).error
        assert f"{place} is inside the store {empty}; name a folder outside of it" in error
    assert set(empty.rglob("*")) == before
    os.mkfifo(tmp_path / "FORMAT")  # of any user's
    assert call("mkfs", tmp_path / "new").code == 0
