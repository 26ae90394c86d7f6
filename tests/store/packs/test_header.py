"""The names of packs, and their headers."""

from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import PackId
from modelfs.store.packs.header import Header, pack_number, read_header
from tests.support.paths import STORE_GOLDEN


@pytest.mark.parametrize("name", ["1.pack", "\u0660" * 7 + "1.pack", "00000001", "000000001.pack"])
def test_similar_names_are_no_packs(name: str) -> None:
    """A file whose name resembles that of a pack is no pack."""
    assert pack_number(name) is None


@pytest.mark.parametrize(
    ("name", "number"),
    [("00000001.pack", 1), ("123456789.pack", 123456789), ("x.pack", None), ("1.tmp", None)],
)
def test_pack_names_have_numbers(name: str, number: int | None) -> None:
    """Only valid pack names give a number."""
    assert pack_number(name) == number


def test_any_damaged_bit_makes_no_header() -> None:
    """A header is read back; with a flipped bit, or cut short, it is none."""
    header = Header(PackId(7), bytes(range(16)))
    whole = header.to_bytes()
    assert Header.from_bytes(whole) == header
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert Header.from_bytes(bytes(damaged)) is None
    for size in range(len(whole)):
        assert Header.from_bytes(whole[:size]) is None


def test_the_header_of_a_file(tmp_path: Path) -> None:
    """A pack of an earlier version has a header, whatever its name is; other files have none."""
    (tmp_path / "any").write_bytes((STORE_GOLDEN / "one.pack").read_bytes())
    (tmp_path / "00000001.pack").write_bytes(b"")
    folder = Directory(tmp_path)
    header = read_header(folder, "any")
    assert header is not None
    assert header.pack == 1
    assert read_header(folder, "00000001.pack") is None
    folder.close()
