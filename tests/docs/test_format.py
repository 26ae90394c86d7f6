"""The page on the format agrees with the program: tables, layouts, numbers and names."""

import importlib
import pkgutil
import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import pytest

import modelfs.store
from modelfs.codecs import DERIVATIONS
from modelfs.codecs.base import CodecId
from modelfs.formats.layout import Format
from modelfs.store.index import counters
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.superblock import FORMAT_VERSION
from modelfs.store.index.tables import Table
from modelfs.store.index.tensor_records import SketchKind
from tools.docs.man import FORMAT

TEXT: Final = FORMAT.read_text()
Rows = list[list[str]]

# By the heading of their table: class and attribute of the layout, or module and name.
LAYOUTS: Final = {
    "Superblock": "Superblock.LAYOUT",
    "Inode": "Inode.LAYOUT",
    "Dentry": "Dentry.LAYOUT",
    "Extent": "Extent.LAYOUT",
    "TensorRow": "TensorRow.HEAD",
    "Chunk": "Chunk.LAYOUT",
    "PackRow": "PackRow.LAYOUT",
    "Packs": "modelfs.store.packs.header.LAYOUT",
    "Segment": "modelfs.store.packs.segment.HEAD",
    "Entry": "Entry.LAYOUT",
    "Recipe": "modelfs.store.chunks.recipe._RUN",
}
# The letters of `struct`; a name's bytes and bytes that are zero have their number before them.
TYPES: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}


def section(heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[1]


def tables(text: str) -> Iterator[Rows]:
    """Yield the tables of a text, each with its head first."""
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.split("\n")]
        yield [row for row in rows if row != [""] and not set("".join(row)) <= set("- ")]


def table(heading: str, first: str) -> Rows:
    """Return the rows of the table below a heading whose head begins with `first`."""
    (found,) = [rows for rows in tables(section(heading)) if rows[0][0] == first]
    return found[1:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def classes() -> dict[str, Any]:
    """Return every class of the store by its name."""
    found = {}
    for module in pkgutil.walk_packages(modelfs.store.__path__, "modelfs.store."):
        members = vars(importlib.import_module(module.name))
        found.update({name: value for name, value in members.items() if isinstance(value, type)})
    return found


def layout_of(place: str) -> struct.Struct:
    owner, _, name = place.rpartition(".")
    found = getattr(importlib.import_module(owner) if "." in owner else classes()[owner], name)
    assert isinstance(found, struct.Struct)
    return found


def spelt(layout: str) -> list[str]:
    """Return the fields of a `struct` format, repeated ones each, without those that are zero."""
    fields = []
    for count, letter in re.findall(r"(\d*)([a-zA-Z?])", layout):
        if letter in "sx":
            fields.append(f"{count or 1}{letter}")
        else:
            fields += [letter] * int(count or 1)
    return fields


@pytest.mark.parametrize("heading", LAYOUTS)
def test_layouts(heading: str) -> None:
    """A layout's offsets follow from its types, which are those that the program packs."""
    layout = layout_of(LAYOUTS[heading])
    fields, offset = [], 0
    for at, kind, name, _ in table(heading, "offset"):
        assert int(at) == offset, name
        _, _, count = kind.partition(" ")
        if kind.startswith("bytes"):
            fields.append(f"{count}{'x' if name == '-' else 's'}")
        else:
            fields.append(TYPES[kind])
        offset += struct.calcsize(f"<{fields[-1]}")
    assert layout.format.startswith("<")
    assert fields == spelt(layout.format)
    assert offset == layout.size


@pytest.mark.parametrize("heading", [name for name, at in LAYOUTS.items() if at.count(".") == 1])
def test_fields(heading: str) -> None:
    """The fields are called what the record's attributes and its docstring call them."""
    record = classes()[LAYOUTS[heading].partition(".")[0]]
    named = [names(row[2])[0] for row in table(heading, "offset") if row[2] != "-"]
    if heading == "TensorRow":
        assert named[0] in record.__dataclass_fields__
        return
    assert set(named) <= set(record.__dataclass_fields__)
    documented = re.findall(
        r"^\s+(\d+)\s+(?:[ui]\d+|bytes \d+)\s+(\w+)", record.__doc__, re.MULTILINE
    )
    if documented:
        offsets = [row[0] for row in table(heading, "offset") if row[2] != "-"]
        assert documented == list(zip(offsets, named, strict=True))


@pytest.mark.parametrize("heading", ["Superblock", "Inode", "Dentry", "Extent", "Chunk", "PackRow"])
def test_sizes(heading: str) -> None:
    """The size in the text is the layout's."""
    assert f"{layout_of(LAYOUTS[heading]).size} bytes" in section(heading)


def test_tables() -> None:
    """The index's tables are those of the program, in its order."""
    assert [names(row[0])[0] for row in table("Index", "table")] == [each.value for each in Table]
    assert f"must allow {len(Table)} named" in section("Index").replace("\n", " ")


def test_counters() -> None:
    """Every named integer of the program is in the page, and no other."""
    constants = {
        value.decode() for name, value in vars(counters).items() if isinstance(value, bytes)
    }
    assert constants
    described = {name for row in table("Counters", "name") for name in names(row[0])}
    per_form = {name for name in described if name.startswith("form.NAME.")}
    found = {name.removesuffix("CHUNK").removesuffix("KEY") for name in described - per_form}
    assert found == constants
    assert len(per_form) == 3


@pytest.mark.parametrize(
    ("heading", "first", "numbers"),
    [("Chunk", "kind", ChunkKind), ("Chunk", "codec", CodecId), ("Inode", "format", Format)],
)
def test_numbers(heading: str, first: str, numbers: type[IntEnum]) -> None:
    """Kinds, codecs and formats have the numbers that the program gives them."""
    for rows in tables(section(heading)):
        if rows[0][:2] == ["number", first]:
            found = {names(name)[0]: int(number) for number, name, *_ in rows[1:]}
            assert found == {each.name.lower(): each.value for each in numbers}
            return
    pytest.fail(f"no table of {first}s")


def test_codecs_that_need_sources() -> None:
    """The page says of each codec whether it decodes by itself."""
    rows = next(rows for rows in tables(section("Chunk")) if rows[0][1:2] == ["codec"])
    for number, _, needs in rows[1:]:
        assert (needs == "yes") == (CodecId(int(number)) in DERIVATIONS)


def test_sketch_kinds() -> None:
    """Kinds of rows of `relatives` have the program's numbers."""
    for kind in SketchKind:
        assert re.search(rf"[Kk]ind {kind.value} \(`{kind.name.lower()}`\)", section("Relatives"))


def test_versions() -> None:
    """The newest format is the one that is written, and the page is about it."""
    rows = table("Versions", "format")
    assert [int(row[0]) for row in rows] == [*range(1, FORMAT_VERSION + 1)]
    assert f"It describes format {FORMAT_VERSION}." in TEXT.replace("\n", " ")


def test_magic() -> None:
    """The magic bytes of packs and segments are those that are written."""
    assert b"MDLPACK1" in Path(modelfs.store.__path__[0], "packs/header.py").read_bytes()
    for magic, heading in (("MDLPACK1", "Packs"), ("MSEG", "Segment")):
        assert f"`{magic}`" in section(heading)
