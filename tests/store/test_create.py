"""Creating stores."""

from pathlib import Path

import pytest

from modelfs.errors import DirectoryNotEmpty, InvalidArgument
from modelfs.store import create as making
from modelfs.store.create import create_store
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.stores import check_closed


def test_a_new_store_is_empty_and_private(tmp_path: Path) -> None:
    """A new store is sound, has an empty root, and is readable by its owner only."""
    create_store(tmp_path / "new")
    assert check_closed(tmp_path / "new") == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    with Store(tmp_path / "new") as store:
        assert store.dentries.listing(ROOT, 0, 9) == []
        assert store.superblock.chunk_size == making.CHUNK_SIZE
        assert store.statistics().files == 0


def test_two_stores_hash_differently(tmp_path: Path) -> None:
    """Each store has its own identity and hash seed."""
    blocks = []
    for name in ("one", "two"):
        create_store(tmp_path / name)
        with Store(tmp_path / name) as store:
            blocks.append(store.superblock)
    assert blocks[0].uuid != blocks[1].uuid
    assert blocks[0].hash_seed != blocks[1].hash_seed


def test_a_store_is_made_in_an_empty_folder_only(tmp_path: Path) -> None:
    """A folder with any file in it is left as it is."""
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryNotEmpty):
        create_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("size", [0, 4095, 4096 + 1, (1 << 30) + 4096])
def test_chunk_sizes_are_checked(tmp_path: Path, size: int) -> None:
    """A chunk size that no store can have is refused, and nothing is created."""
    with pytest.raises(InvalidArgument):
        create_store(tmp_path / "store", chunk_size=size)
    assert not (tmp_path / "store").exists()
