"""The format, byte for byte: what this version writes, and that it reads what others wrote.

The files in `golden/store/` are a store of format 1; single records and packs are pinned in the
tests of their modules. Where a test here fails, either the change that broke it is to be undone,
or the format gets a new version, and golden files of its own next to these.
"""

import json
import os
import secrets
import shutil
import time
import uuid
from pathlib import Path
from typing import Final

import pytest

from modelfs.codecs.base import CodecId
from modelfs.formats.layout import Format
from modelfs.store import writer
from modelfs.store.check import check
from modelfs.store.check_decode import DECODERS
from modelfs.store.folder import FORMAT_FILE
from modelfs.store.index import Index
from modelfs.store.namespace import Owner
from modelfs.store.records import FORMAT_VERSION, ChunkKind
from modelfs.store.store import Store
from modelfs.store.tables import ROOT, Table
from tests.store.stores import FILE, FOLDER, model_of, new_store, noise

GOLDEN: Final = Path(__file__).parent / "golden" / "store"
UUID: Final = bytes(range(16))
SEED: Final = 0x0123456789ABCDEF
NOW: Final = 1_700_000_000_123_456_789
SOMEBODY: Final = Owner(1000, 100)

MODEL: Final = model_of(noise(5000, 1), noise(70, 2))
OTHER: Final = model_of(noise(5000, 1), noise(70, 3), note="other")
PLAIN: Final = noise(4096, 6) * 18  # long enough to have twins
STAGED: Final = noise(50, 4)

Dump = dict[str, list[list[str]]]


def test_numbers_keep_their_meaning() -> None:
    """A number that some store has is never given to something else."""
    numbers = {
        kind.__name__: {each.name: each.value for each in kind}
        for kind in (ChunkKind, CodecId, Format)
    }
    golden = json.loads((GOLDEN / "numbers.json").read_text())
    assert {kind: {**numbers[kind], **golden[kind]} for kind in golden} == numbers


# -- a store


def make_golden_store(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make a store that has a row in every table, the same whenever it is made."""
    patch.setattr(time, "time_ns", lambda: NOW)
    patch.setattr(secrets, "randbits", lambda bits: SEED)
    patch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=UUID))
    patch.setattr(os, "geteuid", lambda: SOMEBODY.uid)
    patch.setattr(os, "getegid", lambda: SOMEBODY.gid)
    # What zstd makes of bytes may differ between its versions; its golden pair is the codecs'.
    patch.setattr(writer, "CODED_MAX", 0)
    path = new_store(folder)
    with Store(path) as store:
        _fill(store)
    patch.undo()
    return path


def _fill(store: Store) -> None:
    names = store.namespace
    models = names.create(ROOT, b"models", FOLDER, SOMEBODY).inode
    for name, content in ((b"one.safetensors", MODEL), (b"other.safetensors", OTHER)):
        inode = names.create(models, name, FILE, SOMEBODY).inode
        store.contents.write(inode, 0, content)
    names.link(inode, ROOT, b"second name")
    names.symlink(ROOT, b"link", b"models", SOMEBODY)
    store.attributes.put(models, b"user.note", b"value")
    gone = names.create(ROOT, b"gone", FILE, SOMEBODY).inode
    store.contents.write(gone, 0, noise(80, 5))
    plain = names.create(ROOT, b"plain", FILE, SOMEBODY).inode
    store.contents.write(plain, 0, PLAIN)
    store.ingest_all()
    names.unlink(ROOT, b"gone")
    store.reaper.reap(gone)
    orphan = names.create(ROOT, b"orphan", FILE, SOMEBODY).inode
    names.unlink(ROOT, b"orphan")
    assert store.reaper.orphans() == [orphan]
    staged = names.create(ROOT, b"staged", FILE, SOMEBODY).inode
    store.contents.write(staged, 10, STAGED)
    store.contents.truncate(plain, 60_000)
    store.flush(plain)


def dump(path: Path) -> Dump:
    """Return every row of a store's index, in hexadecimal."""
    index = Index(path / "index", read_only=True)
    rows = {
        table.value: [[key.hex(), value.hex()] for key, value in index.pages(table)]
        for table in Table
    }
    index.close()
    return rows


def golden_index() -> Dump:
    return dict(json.loads((GOLDEN / "index.json").read_text()))


def golden_store(folder: Path) -> Path:
    """Put the pinned store together in `folder`, and return its path."""
    path = new_store(folder)
    for name in ("packs", "staging"):
        shutil.copytree(GOLDEN / name, path / name, dirs_exist_ok=True)
    index = Index(path / "index")
    with index.change():
        for table, rows in golden_index().items():
            for key, _ in index.pages(Table(table)):
                index.delete(Table(table), key)
            for row in rows:
                index.put(Table(table), *map(bytes.fromhex, row))
    index.commit()
    index.close()
    return path


def test_an_index_is_written_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of a store's index is pinned, key and value."""
    assert dump(make_golden_store(tmp_path, monkeypatch)) == golden_index()


def test_a_stores_files_are_written_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files next to the index are pinned, name and content."""
    path = make_golden_store(tmp_path, monkeypatch)
    for name in ("packs", "staging"):
        files = {file.name: file.read_bytes() for file in (path / name).iterdir()}
        golden = {file.name: file.read_bytes() for file in (GOLDEN / name).iterdir()}
        assert files == golden
    assert (path / FORMAT_FILE).read_bytes().startswith(b"modelfs store, format 1\n")


def test_old_rows_stay_readable() -> None:
    """Every pinned row decodes, and there is one of each table but those of hints."""
    rows = golden_index()
    for table in Table:
        for row in rows[table.value]:
            DECODERS[table](*map(bytes.fromhex, row))
    without = {table for table in Table if not rows[table.value]}
    assert without <= {Table.SIDECARS, Table.PENDING}


def test_an_old_store_stays_readable(tmp_path: Path) -> None:
    """The pinned store opens, is sound, and its files read as they were written."""
    with Store(golden_store(tmp_path)) as store:
        assert store.superblock.version == FORMAT_VERSION
        assert check(store, data=True) == []
        models = store.namespace.lookup(ROOT, b"models")
        one = store.namespace.lookup(models, b"one.safetensors")
        assert store.contents.read(one, 0, 1 << 20) == MODEL
        second = store.namespace.lookup(ROOT, b"second name")
        assert store.contents.read(second, 0, 1 << 20) == OTHER
        staged = store.namespace.lookup(ROOT, b"staged")
        assert store.contents.read(staged, 0, 1 << 20) == bytes(10) + STAGED


def test_an_old_store_can_be_written_to(tmp_path: Path) -> None:
    """What is stored in a store of old shares its chunks with what is there."""
    with Store(golden_store(tmp_path)) as store:
        store.ingest_all()
        before = store.statistics().stored_bytes
        inode = store.namespace.create(ROOT, b"copy", FILE, SOMEBODY).inode
        store.contents.write(inode, 0, MODEL)
        store.ingest_all()
        assert store.statistics().stored_bytes == before
        store.collect()
        assert check(store, data=True) == []
