"""The checksum at the end of each row of the index.

A damaged row may decode: an extent with another offset is an extent. So a row's value in LMDB ends
with 4 bytes, little-endian: the low half of the XXH3-64 of its key and value, seeded with the
XXH3-64 of its table's name. All reads compare it. Rows of formats 1 to 3 have none.

Example. The disk changes the row `extents (2, 0)` from chunk 7 to chunk 5. Its checksum is that of
chunk 7, so `checked` raises `CorruptIndex`, and the read of the file fails.

LMDB has no checksums of its own. They would have to cover pages, and the header of a page changes
with its place. A checksum of 4 bytes misses one damaged row in four billion. It costs 0.3 to 0.6 us
for each row that is read or written (`tools/run bench.overhead`, on a busy virtual machine), and 4
bytes of the index.
"""

from typing import Final

from xxhash import xxh3_64_intdigest

from modelfs.errors import CorruptIndex
from modelfs.store.index.tables import Table

CHECKSUM_SIZE: Final = 4
# The first format whose rows have checksums.
CHECKSUMS_SINCE: Final = 4
_MASK: Final = (1 << 8 * CHECKSUM_SIZE) - 1
_SEEDS: Final = {table: xxh3_64_intdigest(table.value.encode()) for table in Table}


def with_checksum(table: Table, key: bytes, value: bytes) -> bytes:
    """Return a row's value as LMDB has it."""
    return value + _checksum(table, key, value).to_bytes(CHECKSUM_SIZE, "little")


def checked(table: Table, key: bytes, stored: bytes) -> bytes:
    """Return the value of a row that LMDB has.

    Raises:
        CorruptIndex: the row does not match its checksum.
    """
    value = stored[:-CHECKSUM_SIZE]
    if int.from_bytes(stored[-CHECKSUM_SIZE:], "little") != _checksum(table, key, value):
        raise CorruptIndex(f"{table.value} row {key[:32].hex()} does not match its checksum")
    return value


def matches(table: str, key: bytes, stored: bytes) -> bool:
    """Whether a row that LMDB has matches its checksum, by the name of its table."""
    try:
        checked(Table(table), key, stored)
    except (CorruptIndex, ValueError):
        return False
    return True


def _checksum(table: Table, key: bytes, value: bytes) -> int:
    return xxh3_64_intdigest(key + value, _SEEDS[table]) & _MASK
