"""Rows of an index, written and committed one at a time, or read all at once."""

from pathlib import Path

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table


def put(index: Index, key: bytes, value: bytes) -> None:
    """Put a row of the table META, and commit it."""
    with index.change():
        index.put(Table.META, key, value)
    index.commit()


def rows_of(folder: Path) -> dict[Table, list[tuple[bytes, bytes]]]:
    """Return the rows of an index that are in tables with rows."""
    index = Index(Directory(folder))
    rows = {table: list(index.pages(table)) for table in Table}
    index.close()
    return {table: found for table, found in rows.items() if found}
