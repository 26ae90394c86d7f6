"""The checksum of the staged bytes of a window."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.errors import IrregularFile
from modelfs.store.files.staged_checksums import (
    checksum_of,
    has_checksum,
    is_intact,
    put_checksum,
    remove_checksum,
    windows_with_checksums,
)
from modelfs.store.files.window import WINDOW
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import Table, pair_key
from modelfs.store.store import Store
from tests.support.stores import durable, new_file, noise, overwrite

START = WINDOW + 70  # of the staged bytes, in window 1


@pytest.fixture
def row(opened: Store) -> Iterator[tuple[bytes, WindowRanges]]:
    """The row of a window with two ranges, and its key, which has a checksum."""
    inode = new_file(opened, b"f")
    for start in (START, START + 5000):
        opened.writes.write(inode, start, noise(3000, start))
    durable(opened, inode)
    key = pair_key(inode, 1)
    value = opened.index.get(Table.STAGED, key)
    assert value is not None
    row = WindowRanges.from_bytes(value)
    with opened.index.change():
        put_checksum(opened.index, key, row, checksum_of(opened.staging.directory, key, row))
    yield key, row
    with opened.index.change():
        remove_checksum(opened.index, key)


def file_of(opened: Store) -> Path:
    """Return the only staging file."""
    (file,) = opened.staging.directory.path.iterdir()
    return file


def test_sound_bytes_are_intact(opened: Store, row: tuple[bytes, WindowRanges]) -> None:
    """A window has a checksum of all its ranges until that is removed."""
    assert windows_with_checksums(opened.index) == [row[0]]
    assert has_checksum(opened.index, *row)
    assert is_intact(opened.index, opened.staging.directory, *row)
    with opened.index.change():
        remove_checksum(opened.index, row[0])
    assert windows_with_checksums(opened.index) == []
    assert not has_checksum(opened.index, *row)
    assert is_intact(opened.index, opened.staging.directory, *row)


@pytest.mark.parametrize(
    ("at", "damaged"), [(70, True), (3069, True), (8069, True), (69, False), (4000, False)]
)
def test_a_changed_byte(
    opened: Store, row: tuple[bytes, WindowRanges], at: int, *, damaged: bool
) -> None:
    """Another byte in a range is found, and one in a hole has no meaning."""
    file = file_of(opened)
    sound = file.read_bytes()
    overwrite(file, at, bytes([sound[at] ^ 1]))
    assert is_intact(opened.index, opened.staging.directory, *row) != damaged
    overwrite(file, at, sound[at : at + 1])


def test_a_file_that_was_cut_short(opened: Store, row: tuple[bytes, WindowRanges]) -> None:
    """Missing bytes at the end do not match the checksum."""
    file = file_of(opened)
    sound = file.read_bytes()
    os.truncate(file, len(sound) - 1)
    assert not is_intact(opened.index, opened.staging.directory, *row)
    file.write_bytes(sound)


def test_a_checksum_of_an_older_generation(opened: Store, row: tuple[bytes, WindowRanges]) -> None:
    """A window that began again is not compared with the checksum of the one before."""
    key, old = row
    newer = WindowRanges(old.generation + 1, RangeSet(old.ranges))
    assert not has_checksum(opened.index, key, newer)
    assert is_intact(opened.index, opened.staging.directory, key, newer)


def test_a_file_that_cannot_be_read(opened: Store, row: tuple[bytes, WindowRanges]) -> None:
    """A missing file, or a link, is an error of the read that needs it, and no lost bytes."""
    file = file_of(opened)
    away = file.with_name("away")
    file.rename(away)
    assert is_intact(opened.index, opened.staging.directory, *row)
    with pytest.raises(FileNotFoundError):
        checksum_of(opened.staging.directory, *row)
    file.symlink_to(away)
    assert is_intact(opened.index, opened.staging.directory, *row)
    with pytest.raises(IrregularFile):
        checksum_of(opened.staging.directory, *row)
    away.rename(file)
