"""The meta pages of an index, to be damaged."""

from pathlib import Path

from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.meta import META_SIZE, SECTOR, Meta, newest, read_metas, read_record
from tests.support.index_pages import SIZE
from tests.support.stores import overwrite


def last_meta(path: Path) -> Meta:
    """Return the meta page of the last commit of a data file."""
    with PageFile(Directory(path.parent)) as file:
        meta = newest(read_metas(file))
    assert meta is not None
    return meta


def record_of(path: Path) -> Meta | None:
    """Return the record of the last commit."""
    with PageFile(Directory(path.parent)) as file:
        read_metas(file)
        return read_record(file)


def flip(path: Path, page: int, bit: int) -> None:
    """Flip a bit of a meta page."""
    at = page * SIZE + bit // 8
    old = path.read_bytes()[at]
    overwrite(path, at, bytes([old ^ 1 << bit % 8]))


def wipe(path: Path, page: int) -> None:
    """Let a meta page be zeros, without the record that it has of the other's commit."""
    overwrite(path, page * SIZE, bytes(META_SIZE))


def forget_records(path: Path) -> None:
    """Remove the records, as if the kernel had not written them before a crash."""
    for page in range(2):
        overwrite(path, (page + 1) * SIZE - SECTOR, bytes(SECTOR))
