"""Rows of an index's META table, written and committed one at a time."""

from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table


def put(index: Index, key: bytes, value: bytes) -> None:
    """Put a row, and commit it."""
    with index.change():
        index.put(Table.META, key, value)
    index.commit()
