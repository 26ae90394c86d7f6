"""The page on the format is enough to read a store: a reader made of it alone reads every byte.

Of the program it takes the codecs only, whose pages are in docs/codecs.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
import xxhash

from modelfs.codecs import CODECS, DERIVATIONS
from modelfs.codecs.base import CodecId
from modelfs.store.create import create_store
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.run_jobs import ingest_all, optimize
from tests.support.stores import new_file, noise

U64 = struct.Struct(">Q")
PAIR = struct.Struct(">QQ")
INODE = struct.Struct("<IIIIQQqqqQH2xIQII")
EXTENT = struct.Struct("<QII")
CHUNK = struct.Struct("<BBBBIQQIIQQ16sI4xQ")
RUN = struct.Struct("<QII")
WINDOW = 64 << 20
PLAIN, CODED, DERIVED = 0, 1, 3


class Reader:
    """Reads files as the section "To read a file" says, step by step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = lmdb.open(str(folder / "index"), readonly=True, max_dbs=24)
        self._rows = self._env.begin()

    def close(self) -> None:
        self._rows.abort()
        self._env.close()

    def _table(self, name: str) -> lmdb._Database:
        return self._env.open_db(name.encode(), self._rows, create=False)

    def _get(self, table: str, key: bytes) -> bytes | None:
        stored: bytes | None = self._rows.get(key, db=self._table(table))
        return None if stored is None else self._checked(table, key, stored)

    def _checked(self, table: str, key: bytes, stored: bytes) -> bytes:
        seed = xxhash.xxh3_64_intdigest(table.encode())
        value, checksum = stored[:-4], stored[-4:]
        digest = xxhash.xxh3_64_intdigest(key + value, seed)
        assert checksum == struct.pack("<I", digest & 0xFFFFFFFF)
        return value

    def _under(self, table: str, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose key begins with a number."""
        prefix = U64.pack(number)
        with self._rows.cursor(self._table(table)) as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                yield cursor.key(), self._checked(table, cursor.key(), cursor.value())
                found = cursor.next()

    def file(self, path: str) -> bytes:
        inode = 1
        for name in path.encode().split(b"/"):
            dentry = self._get("dentries", U64.pack(inode) + name)
            assert dentry is not None, path
            inode = struct.unpack("<QQ", dentry)[0]
        record = self._get("inodes", U64.pack(inode))
        assert record is not None
        size = INODE.unpack(record)[4]
        content = bytearray(size)
        trim = self._get("trims", U64.pack(inode))
        visible = size if trim is None else min(size, U64.unpack(trim)[0])
        for key, value in self._under("extents", inode):
            start = PAIR.unpack(key)[1]
            chunk, skip, length = EXTENT.unpack(value)
            stop = min(start + length, visible)
            if start < stop:
                content[start:stop] = self.chunk(chunk)[skip : skip + stop - start]
        for key, value in self._under("staged", inode):
            window = PAIR.unpack(key)[1]
            generation, *ranges = struct.unpack(f"<{len(value) // 8}Q", value)
            path_of_window = self._folder / "staging" / f"{inode:x}-{window:x}-{generation:x}"
            staged = path_of_window.read_bytes()
            for start, stop in zip(ranges[::2], ranges[1::2], strict=True):
                content[start:stop] = staged[start - window * WINDOW : stop - window * WINDOW]
        return bytes(content)

    def chunk(self, number: int) -> bytes:
        value = self._get("chunks", U64.pack(number))
        assert value is not None
        fields = CHUNK.unpack(value)
        kind, codec, _, _, size, pack, offset, stored, _, _, checksum, *_, content_checksum = fields
        data = (self._folder / "packs" / f"{pack:08d}.pack").read_bytes()[offset : offset + stored]
        assert xxhash.xxh3_64_intdigest(data) == checksum
        content = self._decoded(kind, CodecId(codec), data, size)
        assert len(content) == size
        assert xxhash.xxh3_64_intdigest(content) == content_checksum
        return content

    def _decoded(self, kind: int, codec: CodecId, data: bytes, size: int) -> bytes:
        if kind == PLAIN:
            return data
        if kind == CODED:
            return CODECS[codec].decode(data, size)
        assert kind == DERIVED
        (count,) = struct.unpack_from("<I", data)
        table_end = 4 + count * RUN.size
        source = b"".join(
            self.chunk(chunk)[skip : skip + length]
            for chunk, skip, length in RUN.iter_unpack(data[4:table_end])
        )
        return DERIVATIONS[codec].decode(data[table_end:], size, source)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader of a store with chunks of many forms, a staged file, and a truncated one."""
    folder = tmp_path / "models.store"
    create_store(folder)
    with Store(folder) as store:
        for source in sorted(MODELS.iterdir()):
            new_file(store, source.name.encode(), source.read_bytes())
        cut = new_file(store, b"cut", noise(100_000))
        ingest_all(store)
        optimize(store)
        new_file(store, b"staged", noise(5000, 1))
        store.writes.truncate(cut, 70_000)
    made = Reader(folder)
    yield made
    made.close()


def test_every_byte(reader: Reader) -> None:
    """All files are read as they were written: optimized, staged, and truncated."""
    for source in sorted(MODELS.iterdir()):
        assert reader.file(source.name) == source.read_bytes()
    assert reader.file("staged") == noise(5000, 1)
    assert reader.file("cut") == noise(100_000)[:70_000]
