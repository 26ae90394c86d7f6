"""Named integers in the table META: counters, sums over the whole store, states of jobs.

All names are defined here, since they are part of the format. A sum changes in the same change of
the index as its terms, so `stats` and `statfs` cost the same however much is stored. fsck counts
everything and compares.

==========================  =====================================================================
name                        value
==========================  =====================================================================
next.inode, .chunk, .pack   the next number of that kind; no number is ever used twice
next.cookie                 the next place in a directory's listing
state.in_use                1 while a daemon serves the store, until all writes are durable
state.cut_pack              the highest number of a pack that gc has cut; 0: none was
state.session               drawn at random for each session of the store: see `sessions`
total.files                 regular files
total.logical_bytes         sum of the files' sizes
total.shared_bytes          bytes of extents beyond the first use of each chunk
total.dead_chunks, _bytes   dead chunks, which gc has not removed yet
total.held_chunks, _bytes   base-only chunks: no file uses them, other chunks derive from them
form.NAME.chunks            chunks alive in that form: plain, lost, or a codec's name
form.NAME.raw_bytes         bytes of their content
form.NAME.stored_bytes      bytes of their stored form, in packs
optimize.walk               the next inode of a walk over all files; 0: no walk is in progress
optimize.depth              the most deltas in a chain; 0: the default
optimize.again              1 while the walk includes chunks that are optimized already
scrub.started_ns, ended_ns  when the last scrub began and ended; 0: never, or not yet
scrub.pack, .offset         where the scrub continues
scrub.chunks, .bytes        chunks and bytes that it has checked
scrub.rate                  bytes per second of a scrub that restarts by itself; 0: no such scrub
scrub.damaged. CHUNK        the place of a damaged chunk: pack << 32 | offset
staged. KEY                 of a row of `staged`, while the store is closed: see
                            `staged_checksums`
==========================  =====================================================================
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table

NEXT_INODE: Final = b"next.inode"
NEXT_CHUNK: Final = b"next.chunk"
NEXT_COOKIE: Final = b"next.cookie"
NEXT_PACK: Final = b"next.pack"

IN_USE: Final = b"state.in_use"
CUT_PACK: Final = b"state.cut_pack"
SESSION: Final = b"state.session"

FILES: Final = b"total.files"
LOGICAL: Final = b"total.logical_bytes"
SHARED: Final = b"total.shared_bytes"
DEAD_CHUNKS: Final = b"total.dead_chunks"
DEAD_BYTES: Final = b"total.dead_bytes"
BASE_ONLY_CHUNKS: Final = b"total.held_chunks"
BASE_ONLY_BYTES: Final = b"total.held_bytes"

OPTIMIZE_WALK: Final = b"optimize.walk"
OPTIMIZE_DEPTH: Final = b"optimize.depth"
OPTIMIZE_AGAIN: Final = b"optimize.again"

SCRUB_STARTED: Final = b"scrub.started_ns"
SCRUB_ENDED: Final = b"scrub.ended_ns"
SCRUB_PACK: Final = b"scrub.pack"
SCRUB_OFFSET: Final = b"scrub.offset"
SCRUB_CHUNKS: Final = b"scrub.chunks"
SCRUB_BYTES: Final = b"scrub.bytes"
SCRUB_RATE: Final = b"scrub.rate"
SCRUB_DAMAGED: Final = b"scrub.damaged."
STAGED_CHECKSUM: Final = b"staged."


def windows_of_checksums(names: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the keys of the windows whose checksums have these names; others are left out."""
    for name in names:
        if name.startswith(STAGED_CHECKSUM):
            yield name.removeprefix(STAGED_CHECKSUM)


@dataclass(frozen=True, slots=True)
class FormTotals:
    """The sums over all chunks that are alive in one stored form."""

    chunks: int = 0
    raw_bytes: int = 0  # of their content
    stored_bytes: int = 0  # in packs


class Counters:
    """Named integers in the index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def get(self, name: bytes) -> int:
        """Return a number, 0 if it was never set.

        Raises:
            CorruptIndex: its row is damaged.
        """
        value = self._index.get(Table.META, name)
        return 0 if value is None else counter_of(name, value)

    def set(self, name: bytes, value: int) -> None:
        # Two sparse files of the largest size, which cost nothing, have a sum of 65 bits.
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
        """Subtract a chunk's `old` record from all totals, and add its `new` one."""
        differences = {} if new is None else chunk_counts(new)
        for name, amount in ({} if old is None else chunk_counts(old)).items():
            differences[name] = differences.get(name, 0) - amount
        for name, difference in differences.items():
            self.add(name, difference)

    def forms(self) -> dict[str, FormTotals]:
        """Return the totals of each stored form, by its name."""
        keys = (key for key, _ in self._index.scan(Table.META, b"form.", b"form/"))
        forms = dict.fromkeys(key.decode().split(".")[1] for key in keys)
        return {form: FormTotals(*self._amounts_of(form)) for form in forms}

    def _amounts_of(self, form: str) -> Iterator[int]:
        return (self.get(f"form.{form}.{field.name}".encode()) for field in fields(FormTotals))


def counter_of(name: bytes, value: bytes) -> int:
    """Return the number in a row: little-endian, signed, 8 to 16 bytes.

    Raises:
        CorruptIndex: the value has another length.
    """
    if not 8 <= len(value) <= 16:
        raise CorruptIndex(f"counter {name!r}: {value.hex()}")
    return int.from_bytes(value, "little", signed=True)


def chunk_counts(chunk: Chunk) -> dict[bytes, int]:
    """Return the amounts that one chunk adds to the totals, by name of the total."""
    if not chunk.alive:
        return {DEAD_CHUNKS: 1, DEAD_BYTES: chunk.stored}
    form = f"form.{chunk.form}.".encode()
    if chunk.is_lost:
        # The bytes of files that cannot be read: each use counts, and none as shared.
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
