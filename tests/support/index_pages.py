"""The pages of an index, to be damaged."""

from pathlib import Path
from typing import Final

from modelfs.store.disk.directory import Directory
from modelfs.store.folder import INDEX
from modelfs.store.index.opening import walk_compared
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.meta import newest, read_metas
from modelfs.store.index.pages.walk import PageWalk
from tests.support.stores import overwrite

SIZE: Final = 4096


def data_file(store: Path) -> Path:
    return store / INDEX / DATA_FILE


def walk_of(path: Path) -> PageWalk:
    """Return the pages of the last commit of a data file."""
    with PageFile(Directory(path.parent)) as file:
        meta = newest(read_metas(file))
        assert meta is not None
        return walk_compared(file, meta)


def leaves_of(store: Path, table: str) -> list[int]:
    """Return the leaves of a table, in the order of their keys."""
    return [place.number for place in walk_of(data_file(store)).leaves[table]]


def damage_flags(store: Path, page: int) -> None:
    """Flip a bit of a leaf, so that it seems to be one of overflow pages, too."""
    overwrite(data_file(store), page * SIZE + 10, b"\x06")
