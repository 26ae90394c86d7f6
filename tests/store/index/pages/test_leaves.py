"""The quick check of leaves, beside the slow one."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages.layout import LEAF, DamagedPage, PageFile, nodes_of
from modelfs.store.index.pages.leaves import PADDING, Leaves
from modelfs.store.index.pages.meta import newest, read_metas
from modelfs.store.index.pages.walk import PageWalk
from modelfs.store.index.tables import Table

ROWS = 3000


@pytest.fixture
def leaves(tmp_path: Path) -> dict[int, bytes]:
    """Leaves with keys and values of many lengths, by page number."""
    chance = random.Random(1)
    index = Index(Directory(tmp_path))
    with index.change():
        for _ in range(ROWS):
            key = chance.randbytes(chance.choice([1, 8, 16, 29, 31]))
            index.put(Table.XATTRS, key, bytes(chance.randrange(200)))
    index.commit()
    index.close()
    with PageFile(Directory(tmp_path)) as file:
        meta = newest(read_metas(file))
        assert meta is not None
        places = PageWalk(file, meta).leaves[Table.XATTRS]
        return {place.number: file.read(place.number) for place in places}


def looked_at(pages: dict[int, bytes]) -> tuple[Leaves, bytearray]:
    buffer = bytearray(b"".join(pages.values()) + bytes(PADDING))
    return Leaves(buffer, np.array([*pages], np.uint64), 4096), buffer


def is_sound(page: bytes, number: int) -> bool:
    try:
        keys = [node.key for node in nodes_of(page, number, LEAF)]
    except DamagedPage:
        return False
    return all(one < other for one, other in pairwise(keys))


def test_sound_pages_are_not_suspect(leaves: dict[int, bytes]) -> None:
    """The quick check passes them, and has their counts and their first and last keys."""
    found, buffer = looked_at(leaves)
    assert len(leaves) > 30
    assert not found.suspect.any()
    for (number, page), count, bounds in zip(
        leaves.items(), found.counts.tolist(), found.bounds(buffer), strict=True
    ):
        nodes = nodes_of(page, number, LEAF)
        assert (count, bounds) == (len(nodes), (nodes[0].key, nodes[-1].key))


@pytest.mark.parametrize("seed", range(10))
def test_no_damaged_page_passes(leaves: dict[int, bytes], seed: int) -> None:
    """Each page that the slow check refuses is suspect, beside other pages of any kind."""
    chance = random.Random(seed)
    damaged = {}
    for number, page in leaves.items():
        changed = bytearray(page)
        for _ in range(chance.choice([0, 1, 2])):
            at = chance.choice(
                [chance.randrange(16), chance.randrange(120), chance.randrange(4096)]
            )
            changed[at] ^= 1 << chance.randrange(8)
        damaged[number] = bytes(changed)
    found, _ = looked_at(damaged)
    refused = [not is_sound(page, number) for number, page in damaged.items()]
    assert any(refused)
    assert not [bad for bad, suspect in zip(refused, found.suspect, strict=True) if bad > suspect]
