"""The decoders of whole rows, table by table."""

import dataclasses
from typing import Final

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.index.chunk_records import OFFSET_END, PackRow
from modelfs.store.index.decoders import DECODERS
from modelfs.store.index.records import SIZE_MAX, Extent
from modelfs.store.index.superblock import SUPERBLOCK
from modelfs.store.index.tables import (
    NUMBER_END,
    ChunkId,
    Table,
    external_data_key,
    named_key,
    number_key,
    pair_key,
    sketch_key,
    tensor_key,
    triple_key,
)
from modelfs.store.index.tensor_records import SketchKind
from tests.support.record_examples import EXAMPLES

ONE: Final = number_key(1)
VALUES: Final = {kind: record.to_bytes() for kind, record in EXAMPLES.items()}
SAMPLES: Final = sketch_key(SketchKind.SAMPLES, 0, 7, 24, 0)

# A row of each table, and its decoded value.
ROWS: Final[dict[Table, tuple[bytes, bytes, object]]] = {
    Table.META: (b"total.files", number_key(7)[::-1], 7),
    Table.INODES: (number_key(7), VALUES["inode"], EXAMPLES["inode"]),
    Table.DENTRIES: (named_key(1, b"model"), VALUES["dentry"], EXAMPLES["dentry"]),
    Table.LISTING: (pair_key(1, 9), VALUES["listed"], EXAMPLES["listed"]),
    Table.PARENTS: (triple_key(7, 1, 9), b"", (7, 1, 9)),
    Table.SYMLINKS: (number_key(7), b"target", b"target"),
    Table.XATTRS: (named_key(7, b"user.note"), b"value", b"value"),
    Table.EXTENTS: (pair_key(1, 7), VALUES["extent"], EXAMPLES["extent"]),
    Table.TRIMS: (number_key(7), number_key(99), 99),
    Table.TENSORS: (tensor_key(1, 7, 0), VALUES["tensor"], EXAMPLES["tensor"]),
    Table.EXTERNAL_DATA: (external_data_key(1, b"data", 7), b"", None),
    Table.COPY_HINTS: (bytes(32), b"", None),
    Table.SKETCHES: (sketch_key(SketchKind.EXACT, 5, 7, 24, 9), b"", SketchKind.EXACT),
    Table.CHUNKS: (number_key(7), VALUES["chunk"], EXAMPLES["chunk"]),
    Table.HASHES: (bytes(16), number_key(7) + number_key(9), [7, 9]),
    Table.SOURCES: (pair_key(9, 7), b"", (9, 7)),
    Table.DEPENDANTS: (pair_key(7, 9), b"", (7, 9)),
    Table.DEAD: (number_key(7), b"", 7),
    Table.BASE_ONLY: (number_key(7), b"", 7),
    Table.PACKS: (number_key(7), VALUES["pack"], EXAMPLES["pack"]),
    Table.STAGED: (pair_key(7, 0), VALUES["window"], EXAMPLES["window"]),
    Table.LOST: (pair_key(7, 0), VALUES["window"], EXAMPLES["window"]),
    Table.PENDING: (number_key(7), number_key(99), 99),
    Table.ORPHANS: (number_key(7), b"", 7),
    Table.TO_OPTIMIZE: (number_key(7), number_key(99), 99),
}
# Tables whose keys begin with a number that was handed out, and those whose values may be anything.
NUMBERED: Final = [*ROWS.keys() - {Table.META, Table.COPY_HINTS, Table.HASHES, Table.SKETCHES}]
ANY_VALUE: Final = {Table.SYMLINKS, Table.XATTRS}
# Keys that end in a name.
NAMED: Final = {Table.META, Table.XATTRS, Table.DENTRIES}


@pytest.mark.parametrize("table", Table)
def test_every_table_has_a_decoder(table: Table) -> None:
    """A row that could have been written decodes."""
    key, value, decoded = ROWS[table]
    assert DECODERS[table](key, value) == decoded


@pytest.mark.parametrize("number", [0, NUMBER_END])
@pytest.mark.parametrize("table", sorted(set(NUMBERED) - {Table.EXTERNAL_DATA}))
def test_numbers_were_handed_out(table: Table, number: int) -> None:
    """The number 0 and numbers that were never allocated are refused as keys."""
    key, value, _ = ROWS[table]
    with pytest.raises(CorruptIndex):
        DECODERS[table](number_key(number) + key[8:], value)
    DECODERS[table](number_key(NUMBER_END - 1) + key[8:], value)


@pytest.mark.parametrize("table", sorted(set(Table) - NAMED))
def test_keys_have_one_length(table: Table) -> None:
    """A key that is longer or shorter by a byte is refused."""
    key, value, _ = ROWS[table]
    for wrong in (key[:-1], key + b"x", b""):
        with pytest.raises(CorruptIndex):
            DECODERS[table](wrong, value)


@pytest.mark.parametrize("table", sorted(set(Table) - ANY_VALUE))
def test_values_have_a_layout(table: Table) -> None:
    """Five bytes are no value but of a symbolic link and of an attribute."""
    with pytest.raises(CorruptIndex):
        DECODERS[table](ROWS[table][0], b"junk!")


@pytest.mark.parametrize("fields", [{"mode": 0o644}, {"mode": 0o170000}, {"size": SIZE_MAX + 1}])
def test_inodes_are_possible(fields: dict[str, int]) -> None:
    """An inode with an unknown file type, or longer than the largest file, is refused."""
    node = dataclasses.replace(EXAMPLES["inode"], **fields)
    with pytest.raises(CorruptIndex):
        DECODERS[Table.INODES](number_key(7), node.to_bytes())


def test_extents_lie_in_files() -> None:
    """An extent may end at the end of the largest file, and not behind it."""
    last = Extent(SIZE_MAX - 5, ChunkId(1), 0, 5)
    assert DECODERS[Table.EXTENTS](pair_key(1, last.start), last.to_bytes()) == last
    with pytest.raises(CorruptIndex):
        DECODERS[Table.EXTENTS](pair_key(1, last.start + 1), last.to_bytes())


def test_packs_end_somewhere() -> None:
    """A pack's row vouches for no more than a file can have."""
    with pytest.raises(CorruptIndex):
        DECODERS[Table.PACKS](ONE, PackRow(OFFSET_END, 0).to_bytes())


@pytest.mark.parametrize(("chunk", "source"), [(0, 7), (7, 0), (7, NUMBER_END)])
def test_links_are_between_chunks(chunk: int, source: int) -> None:
    """Both numbers of a pair were handed out."""
    with pytest.raises(CorruptIndex):
        DECODERS[Table.SOURCES](pair_key(chunk, source), b"")


def test_a_hash_has_chunks() -> None:
    """An empty list of chunks is not written."""
    with pytest.raises(CorruptIndex):
        DECODERS[Table.HASHES](bytes(16), b"")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (sketch_key(9, 5, 7, 24, 9), b""),
        (sketch_key(SketchKind.EXACT, 5, 0, 24, 9), b""),
        (sketch_key(SketchKind.ROW, 5, 7, 24, 9), b""),
        (sketch_key(SketchKind.BAND, 5, 7, 24, 9), bytes(8)),
        (sketch_key(SketchKind.SAMPLES, 5, 7, 24, 0), b"\1\1"),
        (sketch_key(SketchKind.SAMPLES, 0, 7, 24, 9), b"\1\1"),
        (SAMPLES, b"\0\1"),
        (SAMPLES, b"\1"),
    ],
)
def test_sketches_are_possible(key: bytes, value: bytes) -> None:
    """A sketch is of a kind that there is, and has the value of that kind."""
    assert DECODERS[Table.SKETCHES](SAMPLES, b"\1\1") is SketchKind.SAMPLES
    with pytest.raises(CorruptIndex):
        DECODERS[Table.SKETCHES](key, value)


@pytest.mark.parametrize("key", [b"", number_key(1) + b"\0" + number_key(7), b"x" * 30])
def test_external_data_has_a_name(key: bytes) -> None:
    """The key of a data file is a folder, a name, NUL and a model."""
    with pytest.raises(CorruptIndex):
        DECODERS[Table.EXTERNAL_DATA](key, b"")


def test_an_attribute_has_a_name() -> None:
    """An inode alone is no key of an attribute."""
    with pytest.raises(CorruptIndex):
        DECODERS[Table.XATTRS](number_key(7), b"value")


def test_the_superblock_is_no_counter() -> None:
    """Its row in the table of counters has a layout of its own."""
    assert DECODERS[Table.META](SUPERBLOCK, VALUES["superblock"]) == EXAMPLES["superblock"]
    with pytest.raises(CorruptIndex):
        DECODERS[Table.META](SUPERBLOCK, number_key(7))
