"""Arbitrary bytes as the content of a store: records, rows, packs and coded chunks."""

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import xxhash

from modelfs.codecs import CODECS, DERIVATIONS, GENERAL, delta
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import element_of
from modelfs.codecs.smallest import encode_tensor
from modelfs.errors import CorruptIndex, CorruptPack
from modelfs.store.chunks.recipe import Recipe, SourceRun, joined
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.space import Space
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.decoders import DECODERS
from modelfs.store.index.name_records import Dentry, Listed
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.superblock import Superblock
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.packs.header import pack_name, pack_number
from modelfs.store.packs.pack import Packs
from modelfs.store.packs.segment import PAGE, Entry
from tests.support.paths import CODECS_GOLDEN, STORE_GOLDEN

PACK: Final = PackId(1)
UUID: Final = bytes(16)

RECORDS: Final[tuple[tuple[str, Callable[[bytes], Any]], ...]] = (
    ("superblock", Superblock.from_bytes),
    ("inode", lambda value: Inode.from_bytes(7, value)),
    ("dentry", Dentry.from_bytes),
    ("listed", Listed.from_bytes),
    ("extent", lambda value: Extent.from_bytes(7, value)),
    ("chunk", Chunk.from_bytes),
    ("pack", PackRow.from_bytes),
    ("window", WindowRanges.from_bytes),
    ("tensor", lambda value: TensorRow.from_bytes(7, value)),
)
# Seeds besides: records of a younger format.
YOUNGER: Final = {"chunk": ("chunk2", "lost2")}


# -- records, rows and packs


class Stored:
    """A folder with one pack in it, and everything else that decodes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / pack_name(PACK)
        self._packs = Packs(Directory(folder), UUID, Space(folder))
        self._packs.open_at(None, PACK)
        self._head = _pack_head()

    def __call__(self, content: bytes) -> None:
        """The first byte is the kind of the others."""
        if not content:
            return
        kind, body = content[0], content[1:]
        if kind < len(RECORDS):
            check_record(RECORDS[kind][1], body)
        elif kind < 64:
            check_row(kind, body)
        elif kind < 128:
            self._check_pack(body)
        elif kind < 192:
            self._check_pack(_signed(body))
        elif kind < 224:
            check_pack_name(body)
        else:
            check_recipe(body)

    def _check_pack(self, segments: bytes) -> None:
        data = self._head + segments
        self._path.write_bytes(data)
        for stop in (len(data), len(data) + PAGE, (1 << 64) - 1):
            with contextlib.suppress(CorruptPack):
                for entry in self._packs.entries(PACK, stop):
                    assert Entry.from_bytes(entry.to_bytes()) == entry
                    self._read(entry)

    def _read(self, entry: Entry) -> None:
        with contextlib.suppress(CorruptPack):
            stored = self._packs.read(PACK, entry.offset, entry.stored)
            assert len(stored) == entry.stored

    def close(self) -> None:
        self._packs.close()


def check_record(decode: Callable[[bytes], Any], value: bytes) -> None:
    """What decodes is written as bytes that decode to the same."""
    with contextlib.suppress(CorruptIndex):
        record = decode(value)
        assert decode(record.to_bytes()) == record


def check_row(kind: int, body: bytes) -> None:
    """A row of any table decodes or is corrupt."""
    tables = list(DECODERS)
    length = body[0] if body else 0
    key, value = body[1 : 1 + length], body[1 + length :]
    with contextlib.suppress(CorruptIndex):
        DECODERS[tables[kind % len(tables)]](key, value)


def check_recipe(body: bytes) -> None:
    """What decodes is written as the same bytes, and its runs stay the same when joined."""
    with contextlib.suppress(ValueError):
        recipe = Recipe.from_bytes(body)
        assert recipe.to_bytes() == body
        shorter = joined(recipe.runs)
        assert sum(run.length for run in shorter) == sum(run.length for run in recipe.runs)
        assert {run.chunk for run in shorter} == set(recipe.sources)


def check_pack_name(body: bytes) -> None:
    """A file is a pack only if it has just that pack's name."""
    name = body.decode(errors="surrogateescape")
    for each in (name, f"{name}.pack"):
        number = pack_number(each)
        assert number is None or pack_name(number) == each


def _pack_head() -> bytes:
    head = struct.pack("<8sQ16s", b"MDLPACK1", PACK, UUID)
    return (head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head))).ljust(PAGE, b"\0")


def _signed(body: bytes) -> bytes:
    """Return a segment of this table, its checksum right and its size as it should be."""
    count = len(body) // Entry.LAYOUT.size
    table = body[: count * Entry.LAYOUT.size]
    size = -(-(24 + len(table)) // PAGE) * PAGE
    head = struct.pack("<4sIQ", b"MSEG", count, size)
    check = xxhash.xxh3_64_intdigest(head + table)
    return (head + struct.pack("<Q", check) + table).ljust(size, b"\0")


@contextlib.contextmanager
def open_records(folder: Path) -> Iterator[Callable[[bytes], None]]:
    stored = Stored(folder)
    try:
        yield stored
    finally:
        stored.close()


def record_seeds() -> Iterator[bytes]:
    for kind, (name, _) in enumerate(RECORDS):
        value = (STORE_GOLDEN / f"{name}.record").read_bytes()
        yield bytes([kind]) + value
        for younger in YOUNGER.get(name, ()):
            yield bytes([kind]) + (STORE_GOLDEN / f"{younger}.record").read_bytes()
        for row in range(len(RECORDS), len(RECORDS) + len(DECODERS)):
            for length in (8, 16, 20):
                yield bytes([row, length]) + bytes(length) + value
    for row in range(len(RECORDS), len(RECORDS) + len(DECODERS)):
        yield bytes([row, 32]) + bytes(32)
        yield bytes([row, 29, 4]) + bytes(15) + b"\x07" + bytes(12) + b"\x01" + bytes(8)
        yield bytes([row, 16]) + bytes(7) + b"\x01name\0" + bytes(7) + b"\x02"
    segment = (STORE_GOLDEN / "one.pack").read_bytes()[PAGE:]
    count = int.from_bytes(segment[4:8], "little")
    yield bytes([64]) + segment
    yield bytes([128]) + segment[24 : 24 + count * Entry.LAYOUT.size]
    runs = SourceRun(ChunkId(7), 0, 5), SourceRun(ChunkId(7), 5, 9), SourceRun(ChunkId(3), 0, 1)
    yield bytes([224]) + Recipe(runs, b"payload").to_bytes()
    yield bytes([192]) + b"00000001"
    yield bytes([192]) + "\u0661.pack".encode()


# -- codecs

SIZE_MAX: Final = 1 << 20
DTYPES: Final = ("U8", "BF16", "F16", "F32", "F64", "I16", "I32", "I64")
_CODECS_GOLDEN_HEAD: Final = struct.Struct("<BI")


def coded_chunk(content: bytes) -> None:
    """The first byte is the codec, the next four are the size, the others the stored bytes.

    The others are a tensor of each dtype, too.
    """
    if len(content) < _CODECS_GOLDEN_HEAD.size:
        return
    number, size = _CODECS_GOLDEN_HEAD.unpack_from(content)
    codec = CODECS[list(CODECS)[number % len(CODECS)]]
    stored, size = content[_CODECS_GOLDEN_HEAD.size :], size % (SIZE_MAX + 1)
    with contextlib.suppress(ValueError):
        decoded = codec.decode(stored, size)
        assert isinstance(decoded, bytes)
        assert len(decoded) == size
    for general in GENERAL.values():
        assert general.decode(general.encode(stored), len(stored)) == stored
    for dtype in DTYPES:
        form, coded = encode_tensor(stored, element_of(dtype))
        assert CODECS[form].decode(coded, len(stored)) == stored


def codec_seeds() -> Iterator[bytes]:
    for number, codec in enumerate(CODECS):
        raw = (CODECS_GOLDEN / f"{codec.name}.raw").read_bytes()
        stored = (CODECS_GOLDEN / f"{codec.name}.stored").read_bytes()
        yield _CODECS_GOLDEN_HEAD.pack(number, len(raw)) + stored
    for number, general in enumerate(GENERAL.values()):
        for raw in (b"", b"a", bytes(SIZE_MAX), b"ab" * 1000):
            yield _CODECS_GOLDEN_HEAD.pack(number, len(raw)) + general.encode(raw)[:5000]


# -- derivations

_DERIVED_HEAD: Final = struct.Struct("<BIH")


def derived_chunk(content: bytes) -> None:
    """Take the first byte for the derivation, four for the size, two for the length of the source.

    The others are the source and the payload; and content and base of a delta of each dtype, too.
    """
    if len(content) < _DERIVED_HEAD.size:
        return
    number, size, length = _DERIVED_HEAD.unpack_from(content)
    derivation = DERIVATIONS[list(DERIVATIONS)[number % len(DERIVATIONS)]]
    rest, size = content[_DERIVED_HEAD.size :], size % (SIZE_MAX + 1)
    source, payload = rest[:length], rest[length:]
    with contextlib.suppress(ValueError):
        decoded = derivation.decode(payload, size, source)
        assert isinstance(decoded, bytes)
        assert len(decoded) == size
    for dtype in DTYPES:
        coded = delta.encode(payload, source, element_of(dtype))
        assert DERIVATIONS[CodecId.DELTA].decode(coded, len(payload), source) == payload


def derivation_seeds() -> Iterator[bytes]:
    for number, name in enumerate(DERIVATIONS):
        raw, stored, source = (
            (CODECS_GOLDEN / f"{name.name}.{kind}").read_bytes()
            for kind in ("raw", "stored", "source")
        )
        yield _DERIVED_HEAD.pack(number, len(raw), len(source)) + source + stored
    for dtype in DTYPES:
        base, raw = bytes(range(256)) * 8, bytes(range(1, 256)) * 8
        payload = delta.encode(raw, base, element_of(dtype))
        yield _DERIVED_HEAD.pack(0, len(raw), len(base)) + base + payload
