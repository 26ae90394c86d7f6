"""The statistics of a reader are of the store that it has open, whatever lies at its path."""

import shutil
from pathlib import Path

import pytest

import modelfs
from modelfs.store.statistics import Inventory
from tests.support.filled_reader import Make
from tests.support.stores import noise, stored_file


def test_statistics_of_the_disk_are_of_the_opened_store(
    make: Make, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder takes the path before the store's folder is walked: it is not counted."""
    reader = make(lambda store: stored_file(store, b"file", noise(3 << 20)))
    used = reader.statistics().disk_bytes
    real = Inventory.disk_usage
    walks: list[int] = []

    def replaced(inventory: Inventory) -> int:
        path.rename(tmp_path / "aside")
        path.mkdir()
        try:
            walks.append(real(inventory))
            return walks[0]
        finally:
            shutil.rmtree(path)
            (tmp_path / "aside").rename(path)

    monkeypatch.setattr(Inventory, "disk_usage", replaced)
    assert reader.statistics().disk_bytes == used > 3 << 20
    assert walks == [used]


def test_statistics_without_a_store(make: Make, path: Path, tmp_path: Path) -> None:
    """A store that is gone raises the error of every other call."""
    reader = make(lambda store: None)
    path.rename(tmp_path / "aside")
    with pytest.raises(modelfs.NotAStore, match="does not exist"):
        reader.statistics()
    (tmp_path / "aside").rename(path)


def test_statistics_do_not_keep_pages_of_the_index(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk of the folder, which may take minutes, is outside the transaction."""
    reader = make(lambda store: None)
    real = Inventory.disk_usage
    pinned: list[bool] = []

    def walk(inventory: Inventory) -> int:
        pinned.append(inventory._index.rows.in_transaction())
        return real(inventory)

    monkeypatch.setattr(Inventory, "disk_usage", walk)
    reader.statistics()
    assert pinned == [False]
