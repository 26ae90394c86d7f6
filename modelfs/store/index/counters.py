"""Sums over the whole store, kept in the index and changed with what they sum up.

So `stats` and `statfs` cost the same however much is stored; fsck counts anew and compares.
"""

from modelfs.errors import CorruptIndex
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import Table

# Counters from which numbers are handed out; none is ever used twice.
NEXT_INODE = b"next.inode"
NEXT_CHUNK = b"next.chunk"
NEXT_COOKIE = b"next.cookie"
NEXT_PACK = b"next.pack"

# 1 from the moment a daemon serves the store until it has made everything durable.
IN_USE = b"state.in_use"

FILES = b"total.files"
LOGICAL = b"total.logical_bytes"
SHARED = b"total.shared_bytes"
# Of chunks that nothing uses any more, which gc has not removed yet.
DEAD_CHUNKS = b"total.dead_chunks"
DEAD_BYTES = b"total.dead_bytes"
# Of chunks that no file uses, and that are there because others derive from them.
BASE_ONLY_CHUNKS = b"total.held_chunks"
BASE_ONLY_BYTES = b"total.held_bytes"


class Counters:
    """Named integers in the index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def get(self, name: bytes) -> int:
        value = self._index.get(Table.META, name)
        if value is None:
            return 0
        return counter_of(name, value)

    def set(self, name: bytes, value: int) -> None:
        # Two files of the greatest size, which a user makes in no time, have a sum of 65 bits.
        size = max(8, value.bit_length() // 8 + 1)
        self._index.put(Table.META, name, value.to_bytes(size, "little", signed=True))

    def add(self, name: bytes, difference: int) -> None:
        if difference:
            self.set(name, self.get(name) + difference)

    def allocate(self, name: bytes) -> int:
        """Return the next number of a counter."""
        number = self.get(name)
        self.set(name, number + 1)
        return number

    def replace_chunk(self, old: Chunk | None, new: Chunk | None) -> None:
        """Count `new` in the place of `old`."""
        differences = {} if new is None else chunk_counts(new)
        for name, amount in ({} if old is None else chunk_counts(old)).items():
            differences[name] = differences.get(name, 0) - amount
        for name, difference in differences.items():
            self.add(name, difference)

    def forms(self) -> dict[str, dict[str, int]]:
        """Return for each stored form its `chunks`, `raw_bytes` and `stored_bytes`."""
        found: dict[str, dict[str, int]] = {}
        for key, _ in self._index.scan(Table.META, b"form.", b"form/"):
            _, form, field = key.decode().split(".")
            found.setdefault(form, {})[field] = self.get(key)
        return found


def counter_of(name: bytes, value: bytes) -> int:
    """Return the number in a row.

    Raises:
        CorruptIndex: it is too short or longer than any sum.
    """
    if not 8 <= len(value) <= 16:
        raise CorruptIndex(f"counter {name!r}: {value.hex()}")
    return int.from_bytes(value, "little", signed=True)


def chunk_counts(chunk: Chunk) -> dict[bytes, int]:
    """Return what one chunk adds to each total."""
    if not chunk.alive:
        return {DEAD_CHUNKS: 1, DEAD_BYTES: chunk.stored}
    form = f"form.{chunk.form}.".encode()
    if chunk.is_lost:
        # What cannot be read: every use of it, whether it was to be shared or not.
        return {
            form + b"chunks": 1,
            form + b"raw_bytes": chunk.ref_bytes,
            form + b"stored_bytes": 0,
        }
    return {
        form + b"chunks": 1,
        form + b"raw_bytes": chunk.size,
        form + b"stored_bytes": chunk.stored,
        SHARED: max(0, chunk.ref_bytes - chunk.size),
        BASE_ONLY_CHUNKS: int(chunk.base_only),
        BASE_ONLY_BYTES: chunk.stored if chunk.base_only else 0,
    }
