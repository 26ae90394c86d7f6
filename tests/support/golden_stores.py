"""Stores of each version of the format, put together from its pinned files."""

import json
import shutil
from pathlib import Path
from typing import Final

import lmdb

from modelfs.store.folder import FORMAT_FILE, FORMAT_TEXT
from tests.support.paths import STORE_GOLDEN

# By their format; this version writes the last one.
NAMES: Final = {1: "store", 2: "store2", 3: "store3", 4: "store4"}
GOLDENS: Final = {version: STORE_GOLDEN / name for version, name in NAMES.items()}

Dump = dict[str, list[list[str]]]


def golden_index(version: int) -> Dump:
    return dict(json.loads((GOLDENS[version] / "index.json").read_text()))


def golden_store(folder: Path, version: int) -> Path:
    """Put a pinned store together in `folder`, and return its path."""
    path = folder / "golden"
    path.mkdir()
    (path / FORMAT_FILE).write_text(FORMAT_TEXT.format(version=version))
    for name in ("packs", "staging"):
        shutil.copytree(GOLDENS[version] / name, path / name)
    (path / "index").mkdir()
    # As its version created it: without newer tables.
    tables = golden_index(version)
    with lmdb.open(str(path / "index"), max_dbs=len(tables), map_size=1 << 30) as env:
        for table, rows in tables.items():
            database = env.open_db(table.encode())
            with env.begin(db=database, write=True) as transaction:
                for key, value in rows:
                    transaction.put(bytes.fromhex(key), bytes.fromhex(value))
    return path
