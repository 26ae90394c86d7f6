"""Quarantine: the remains of damage that repair took out of a store.

`STORE/quarantine/` has files that were moved there whole (packs, staging files), the stored bytes
of single damaged chunks, copies of a damaged index, and `rows.jsonl`: one JSON object for each row
of the index that was removed or changed and that cannot be computed from other rows. The store does
not refer to any of it: users may inspect it, save data from it, and delete it.

Example. A line of `rows.jsonl`: the row of chunk 2 did not decode::

    {"at": 1763640000, "table": "chunks", "key": "0000000000000002", "value": "6a756e6b21",
     "why": "it does not decode"}
"""

import json
import os
import time
from typing import Final

from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import Table

FOLDER: Final = "quarantine"
ROWS: Final = "rows.jsonl"


class Quarantine:
    """The quarantine of one store. Additions are durable after `flush`, or after `move_files`."""

    def __init__(self, store: Directory) -> None:
        self.path = store.path / FOLDER
        self._store = store
        self._rows: list[str] = []
        self._contents: list[tuple[str, bytes]] = []
        self._moves: list[tuple[Directory, str]] = []

    def add_row(self, table: Table, key: bytes, value: bytes, why: str) -> None:
        row = {
            "at": int(time.time()),
            "table": table.value,
            "key": key.hex(),
            "value": value.hex(),
            "why": why,
        }
        self._rows.append(json.dumps(row) + "\n")

    def add_content(self, name: str, content: bytes) -> None:
        self._contents.append((name, content))

    def add_file(self, folder: Directory, name: str) -> None:
        """Note a file for `move_files`, to be called when no commit mentions the file any more."""
        self._moves.append((folder, name))

    def flush(self) -> None:
        """Write the added rows and contents, durably."""
        if not self._rows and not self._contents:
            return
        folder = self._made()
        for name, content in self._contents:
            _append(folder, _free_name(folder, name), content)
        if self._rows:
            _append(folder, ROWS, "".join(self._rows).encode())
        folder.sync()
        self._rows, self._contents = [], []

    def move_files(self) -> None:
        """Move the added files, durably."""
        for source, name in self._moves:
            if source.exists(name):
                folder = self._made()
                source.rename(name, _free_name(folder, name), folder)
                source.sync()
                folder.sync()
        self._moves = []

    def copy(self, source: Directory, name: str) -> None:
        """Keep a copy of a file, durable when this returns."""
        folder = self._made()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with (
            open(source.open(name, os.O_RDONLY), "rb") as original,
            open(folder.open(_free_name(folder, name), flags), "wb") as copied,
        ):
            while piece := original.read(1 << 20):
                copied.write(piece)
            copied.flush()
            os.fsync(copied.fileno())
        folder.sync()

    def link(self, source: Directory, name: str) -> None:
        """Keep a file that another one is about to replace; durable when this returns."""
        folder = self._made()
        status = source.status(name)
        if any(os.path.samestat(folder.status(kept), status) for kept in folder.names()):
            return  # from a repair that was interrupted
        try:
            source.hard_link(name, _free_name(folder, name), folder)
        except OSError:  # not every file system has links
            self.copy(source, name)
        folder.sync()

    def content(self) -> tuple[int, int]:
        """Return the number of files in quarantine, and their bytes."""
        if not self._store.exists(FOLDER):
            return 0, 0
        folder = self._store.subdirectory(FOLDER)
        with os.scandir(folder.link) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        return len(sizes), sum(sizes)

    def _made(self) -> Directory:
        """Return the folder, and make it if there is none."""
        if not self._store.exists(FOLDER):
            self._store.make_subdirectory(FOLDER)
            self._store.sync()
        return self._store.subdirectory(FOLDER)


def _free_name(folder: Directory, name: str) -> str:
    # Files of earlier repairs are not overwritten.
    free, number = name, 0
    while folder.exists(free):
        number += 1
        free = f"{name}.{number}"
    return free


def _append(folder: Directory, name: str, content: bytes) -> None:
    with open(folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
