"""The superblock; its stored form is pinned with those of all records."""

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.index.superblock import Superblock


@pytest.mark.parametrize("chunk_size", [0, 4095, (1 << 30) + 1])
def test_no_store_has_that_chunk_size(chunk_size: int) -> None:
    """A superblock's chunk size has bounds."""
    block = Superblock(1, chunk_size, 0, bytes(16), 0)
    with pytest.raises(CorruptIndex):
        Superblock.from_bytes(block.to_bytes())
