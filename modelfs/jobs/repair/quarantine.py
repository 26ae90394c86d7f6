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
from pathlib import Path
from typing import Final

from modelfs.store.disk.descriptors import sync_folder
from modelfs.store.index.tables import Table

FOLDER: Final = "quarantine"
ROWS: Final = "rows.jsonl"


class Quarantine:
    """The quarantine of one store. Additions are durable after `flush`, or after `move_files`."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self._rows: list[str] = []
        self._contents: list[tuple[str, bytes]] = []
        self._moves: list[Path] = []

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

    def add_file(self, path: Path) -> None:
        """Note a file for `move_files`, to be called when no commit mentions the file any more."""
        self._moves.append(path)

    def flush(self) -> None:
        """Write the added rows and contents, durably."""
        if not self._rows and not self._contents:
            return
        self._make_folder()
        for name, content in self._contents:
            _write(self._free_path(name), content)
        if self._rows:
            _write(self.folder / ROWS, "".join(self._rows).encode())
        sync_folder(self.folder)
        self._rows, self._contents = [], []

    def move_files(self) -> None:
        """Move the added files, durably."""
        for path in self._moves:
            if path.exists():
                self._make_folder()
                path.rename(self._free_path(path.name))
                sync_folder(path.parent)
                sync_folder(self.folder)
        self._moves = []

    def copy(self, path: Path, name: str) -> None:
        """Keep a copy of a file, durable when this returns."""
        self._make_folder()
        with path.open("rb") as source, self._free_path(name).open("xb") as target:
            while piece := source.read(1 << 20):
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        sync_folder(self.folder)

    def link(self, path: Path) -> None:
        """Keep a file that another one is about to replace; durable when this returns."""
        self._make_folder()
        status = path.stat()
        for kept in self.folder.iterdir():
            if os.path.samestat(kept.lstat(), status):
                return  # from a repair that was interrupted
        try:
            self._free_path(path.name).hardlink_to(path)
        except OSError:  # not every file system has links
            self.copy(path, path.name)
        sync_folder(self.folder)

    def content(self) -> tuple[int, int]:
        """Return the number of files in quarantine, and their bytes."""
        if not self.folder.is_dir():
            return 0, 0
        sizes = [path.lstat().st_size for path in self.folder.iterdir()]
        return len(sizes), sum(sizes)

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700)
            sync_folder(self.folder.parent)

    def _free_path(self, name: str) -> Path:
        # Files of earlier repairs are not overwritten.
        path, number = self.folder / name, 0
        while path.exists():
            number += 1
            path = self.folder / f"{name}.{number}"
        return path


def _write(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
