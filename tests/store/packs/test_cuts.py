"""Cuts of packs: after the commit, and not under a read."""

import os
from pathlib import Path

import pytest

from modelfs.store.disk.descriptors import Descriptors, read_at
from modelfs.store.disk.directory import Directory
from modelfs.store.packs import cuts as cuts_module
from modelfs.store.packs.cuts import DeferredCuts


@pytest.fixture
def files(tmp_path: Path) -> Descriptors:
    """A folder with one file of 100 bytes."""
    (tmp_path / "f").write_bytes(bytes(range(100)))
    return Descriptors(Directory(tmp_path), os.O_RDWR)


@pytest.fixture
def cuts(files: Descriptors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeferredCuts:
    monkeypatch.setattr(cuts_module, "WAIT_SECONDS", 0.02)
    return DeferredCuts(Directory(tmp_path), files)


def test_a_file_is_cut_after_the_commit(cuts: DeferredCuts, tmp_path: Path) -> None:
    """A cut is listed until it is run; a shorter file stays, and a missing one is no error."""
    cuts.after_commit(("f", 60))
    cuts.after_commit(("f", 80))
    cuts.after_commit(("gone", 10))
    drained = cuts.drain()
    assert (tmp_path / "f").stat().st_size == 100
    cuts.restore(drained)
    waiting = cuts.drain()
    cuts.run(waiting)
    assert (tmp_path / "f").read_bytes() == bytes(range(60))
    assert waiting == cuts.drain() == []


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "evicted"])
def test_a_read_delays_a_cut(
    cuts: DeferredCuts, files: Descriptors, tmp_path: Path, cached: bool
) -> None:
    """A planned read has all bytes, also if its descriptor has left the cache.

    The file is cut with the next commit after it.
    """
    planned = files.get("f")
    if not cached:
        files.clear()
        files.get("f")
    waiting = [("f", 60)]
    for _ in range(2):  # the read outlasts another commit, too
        cuts.run(waiting)
        assert waiting == [("f", 60)]
        assert read_at(planned, 0, 100) == bytes(range(100))
    del planned
    cuts.run(waiting)
    assert waiting == []
    assert (tmp_path / "f").stat().st_size == 60


def test_a_new_descriptor_delays_no_cut(cuts: DeferredCuts, files: Descriptors) -> None:
    """A descriptor that is in the cache only is dropped."""
    files.get("f")
    waiting = [("f", 60)]
    cuts.run(waiting)
    assert waiting == []
    assert read_at(files.get("f"), 0, 100) == bytes(range(60))
