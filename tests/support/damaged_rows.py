"""Damage to rows of an index, below the checksums: what a disk does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from modelfs.store.index.tables import Table


@contextmanager
def raw_rows(folder: Path) -> Iterator[dict[Table, dict[bytes, bytes]]]:
    """Yield the rows of an index that is not open, as LMDB has them; changes are written back."""
    with lmdb.open(str(folder), max_dbs=len(Table), map_size=1 << 30) as env:
        databases = {table: env.open_db(table.value.encode()) for table in Table}
        with env.begin() as transaction:
            rows = {
                table: dict(transaction.cursor(database)) for table, database in databases.items()
            }
        before = {table: dict(of_table) for table, of_table in rows.items()}
        yield rows
        with env.begin(write=True) as transaction:
            for table, database in databases.items():
                for key in before[table].keys() - rows[table].keys():
                    transaction.delete(key, db=database)
                for key, value in rows[table].items():
                    if before[table].get(key) != value:
                        transaction.put(key, value, db=database)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damage_row(folder: Path, table: Table, number: int = 0) -> bytes:
    """Damage one row of an index that is not open, and return its key."""
    with raw_rows(folder) as rows:
        key = sorted(rows[table])[number]
        rows[table][key] = flipped(rows[table][key], 3)
    return key
