"""The format, byte for byte: the bytes that this version writes, and reads of older stores.

The files in `golden/store/` are a store of format 1, those in `golden/store2/` one of format 2, and
so on. Single records and packs are pinned in the tests of their modules. If a test here fails,
either undo the change that broke it, or give the format a new version, with its own golden files
beside these.
"""

import dataclasses
import json
import secrets
import time
import uuid
from pathlib import Path
from typing import Final

import pytest

from modelfs.codecs.base import CodecId
from modelfs.errors import LostBytes, StoreFull
from modelfs.formats.layout import Format
from modelfs.jobs.check.fsck import check
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.repair.run import repair
from modelfs.store import store as store_module
from modelfs.store.chunks import writer
from modelfs.store.disk.directory import Directory
from modelfs.store.files.inode_totals import Totals
from modelfs.store.files.namespace import Owner
from modelfs.store.folder import FORMAT_FILE, FORMAT_TEXT, check_format
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.decoders import DECODERS
from modelfs.store.index.index import CommitBatch, Index
from modelfs.store.index.row_checksum import checked
from modelfs.store.index.superblock import FORMAT_VERSION
from modelfs.store.index.tables import ROOT, SINCE, InodeNumber, Table, number_key, sketch_key
from modelfs.store.index.tensor_records import SketchKind
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, derive
from tests.support.golden_stores import GOLDENS, Dump, golden_index, golden_store
from tests.support.lost_writeback import LostWriteBack
from tests.support.paths import MODELS
from tests.support.run_jobs import collect, drain, ingest_all, ingest_file
from tests.support.stores import FILE, FOLDER, model_of, new_store, noise, pending_files

WRITTEN: Final = GOLDENS[FORMAT_VERSION]
UUID: Final = bytes(range(16))
SEED: Final = 0x0123456789ABCDEF
NOW: Final = 1_700_000_000_123_456_789
SOMEBODY: Final = Owner(1000, 100)

MODEL: Final = model_of(noise(5000, 1), noise(70, 2))
OTHER: Final = model_of(noise(5000, 1), noise(70, 3), note="other")
PLAIN: Final = noise(4096, 6) * 18  # long enough for a copy hint
STAGED: Final = noise(50, 4)
GONE: Final = noise(4096, 7)
# Its first tensor derives from one of the models above, its second from a removed one.
DERIVED: Final = model_of(noise(5000, 1)[50:4050], GONE[96:], noise(500, 8))
NAMES_DATA: Final = (MODELS / "base-external.onnx").read_bytes()
# Tables of format 1 without a row in its pinned store.
EMPTY_IN_1: Final = {Table.EXTERNAL_DATA, Table.PENDING}

every_format = pytest.mark.parametrize("version", GOLDENS)


@every_format
def test_numbers_keep_their_meaning(version: int) -> None:
    """A number of the format never gets another meaning."""
    numbers = {
        kind.__name__: {each.name: each.value for each in kind}
        for kind in (ChunkKind, CodecId, Format)
    }
    golden = json.loads((GOLDENS[version] / "numbers.json").read_text())
    assert {kind: {**numbers[kind], **golden[kind]} for kind in golden} == numbers


# -- a store


def make_golden_store(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Create a store with a row in every table, the same every time."""
    patch.setattr(time, "time_ns", lambda: NOW)
    patch.setattr(time, "clock_gettime_ns", lambda _: NOW)
    patch.setattr(secrets, "randbits", lambda bits: SEED)
    patch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=UUID))
    # zstd's output may differ between its versions; the codecs have a golden pair of it.
    patch.setattr(writer, "CODED_MAX", 0)
    # Stores of earlier versions have no number of a session.
    patch.setattr(store_module, "begin_session", lambda *_: None)
    path = new_store(folder)
    store = Store(path)
    root = store.inodes.get(ROOT)
    with store.index.change():
        store.inodes.put(dataclasses.replace(root, uid=SOMEBODY.uid, gid=SOMEBODY.gid))
    _fill(store)
    store.commit()
    store.abandon()  # to close it would raise, because of the lost bytes
    patch.undo()
    return path


def _lose(store: Store, inode: InodeNumber, start: int, data: bytes) -> None:
    """Write bytes that the kernel then fails to write back."""
    kernel = LostWriteBack(1 << 60)
    with kernel.below():
        store.writes.write(inode, start, data)
        kernel.lose()
        with pytest.raises(LostBytes, match="were lost"):
            store.flush(inode)


def _fill(store: Store) -> None:
    names = store.namespace
    models = names.create(ROOT, b"models", FOLDER, SOMEBODY).inode
    for name, content in ((b"one.safetensors", MODEL), (b"other.safetensors", OTHER)):
        inode = names.create(models, name, FILE, SOMEBODY).inode
        store.writes.write(inode, 0, content)
    names.link(inode, ROOT, b"second name")
    names.symlink(ROOT, b"link", b"models", SOMEBODY)
    store.attributes.put(models, b"user.note", b"value")
    gone = names.create(ROOT, b"gone", FILE, SOMEBODY).inode
    store.writes.write(gone, 0, noise(80, 5))
    plain = names.create(ROOT, b"plain", FILE, SOMEBODY).inode
    store.writes.write(plain, 0, PLAIN)
    _ingest_each(store)
    _derive(store)
    store.commit()
    names.unlink(ROOT, b"gone")
    drain(store.orphans.remove(gone))
    orphan = names.create(ROOT, b"orphan", FILE, SOMEBODY).inode
    names.unlink(ROOT, b"orphan")
    assert store.orphans.inodes() == [orphan]
    staged = names.create(ROOT, b"staged", FILE, SOMEBODY).inode
    store.writes.write(staged, 10, STAGED)
    store.flush(staged)
    _lose(store, staged, 10 + len(STAGED), b"lost")
    store.writes.truncate(plain, 60_000)
    store.flush(plain)
    with store.index.change():
        store.index.put(Table.PENDING, number_key(plain), number_key(NOW))


def _ingest_each(store: Store) -> None:
    # One file at a time: files that are ingested together share a segment, at other places.
    before: list[InodeNumber] = []
    while (pending := pending_files(store)) != before:
        for inode in pending:
            ingest_file(store, inode)
        before = pending
    store.commit()


def _derive(store: Store) -> None:
    # A chunk derived from a file's chunk, and one from a chunk that will be base-only.
    names = store.namespace
    for name, content in ((b"old", GONE), (b"derived", DERIVED), (b"data.onnx", NAMES_DATA)):
        inode = names.create(ROOT, name, FILE, SOMEBODY).inode
        store.writes.write(inode, 0, content)
    _ingest_each(store)
    old, derived = names.lookup(ROOT, b"old"), names.lookup(ROOT, b"derived")
    one = names.lookup(names.lookup(ROOT, b"models"), b"one.safetensors")
    start = len(DERIVED) - 8500
    base = chunk_at(store, one, len(MODEL) - 5070)
    derive(store, chunk_at(store, derived, start), (base, 50, 4000))
    derive(store, chunk_at(store, derived, start + 4000), (chunk_at(store, old), 96, 4000))
    with store.index.change():
        store.chunks.mark_optimized(base, 1)
        relative = sketch_key(SketchKind.EXACT, SEED, inode, start, 7)
        store.index.put(Table.SKETCHES, relative, b"")
    names.unlink(ROOT, b"old")
    drain(store.orphans.remove(old))


def dump(path: Path) -> Dump:
    """Return every row of a store's index as LMDB has it, in hexadecimal."""
    index = Index(Directory(path / "index"), read_only=True)
    rows = {
        table.value: [
            [key.hex(), (index.rows.stored(table, key) or b"").hex()] for key in index.keys(table)
        ]
        for table in Table
    }
    index.close()
    return rows


def test_an_index_is_written_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of a store's index is pinned, key and value."""
    assert dump(make_golden_store(tmp_path, monkeypatch)) == golden_index(FORMAT_VERSION)


def test_a_stores_files_are_written_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files beside the index are pinned, name and content."""
    path = make_golden_store(tmp_path, monkeypatch)
    for name in ("packs", "staging"):
        files = {file.name: file.read_bytes() for file in (path / name).iterdir()}
        golden = {file.name: file.read_bytes() for file in (WRITTEN / name).iterdir()}
        assert files == golden
    assert (path / FORMAT_FILE).read_bytes().startswith(b"modelfs store, format 4\n")


@every_format
def test_old_rows_stay_readable(version: int) -> None:
    """Every pinned row decodes; each table has one, except those of hints."""
    rows = golden_index(version)
    tables = {table for table in Table if SINCE.get(table, 1) <= version}
    assert {Table(name) for name in rows} == tables
    for table in tables:
        for row in rows[table.value]:
            key, stored = map(bytes.fromhex, row)
            DECODERS[table](key, stored if version < 4 else checked(table, key, stored))
    without = {table for table in tables if not rows[table.value]}
    assert without == (EMPTY_IN_1 if version == 1 else set())


def read_golden(store: Store, version: int) -> None:
    """Return the contents of a pinned store."""
    assert check(store, data=True) == []
    models = store.namespace.lookup(ROOT, b"models")
    one = store.namespace.lookup(models, b"one.safetensors")
    assert store.contents.read(one, 0, 1 << 20) == MODEL
    second = store.namespace.lookup(ROOT, b"second name")
    assert store.contents.read(second, 0, 1 << 20) == OTHER
    staged = store.namespace.lookup(ROOT, b"staged")
    assert store.contents.read(staged, 0, 60) == bytes(10) + STAGED
    if version > 3:
        with pytest.raises(LostBytes):
            store.contents.read(staged, 0, 61)
    if version > 1:
        derived = store.namespace.lookup(ROOT, b"derived")
        assert store.contents.read(derived, 0, 1 << 20) == DERIVED
        assert store.inventory.statistics().base_only_chunks == 1


@every_format
@pytest.mark.parametrize("read_only", [True, False])
def test_an_old_store_stays_readable(tmp_path: Path, version: int, *, read_only: bool) -> None:
    """The pinned store opens, is sound, and its files have their content."""
    path = golden_store(tmp_path, version)
    with Store(path, read_only=read_only) as store:
        assert store.superblock.version == (version if read_only else FORMAT_VERSION)
        read_golden(store, version)
    assert check_format(Directory(path)) == (version if read_only else FORMAT_VERSION)


# -- upgrades of older formats

before_this_format = pytest.mark.parametrize("version", range(1, FORMAT_VERSION))
# An upgrade counts totals and sets the version, and recovery begins a session.
CHANGED_BY_UPGRADE: Final = frozenset({Table.META, Table.INODES})


def full_disk(*_: object) -> None:
    raise StoreFull("no space left")


def versions(path: Path) -> tuple[int, int]:
    """Return the format in a store's folder, and its superblock."""
    with Store(path, read_only=True) as store:
        return check_format(Directory(path)), store.superblock.version


@before_this_format
def test_an_interrupted_upgrade_is_continued(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has the new format before any row does; the next open does the rest."""
    path = golden_store(tmp_path, version)
    assert versions(path) == (version, version)
    with monkeypatch.context() as patch:
        patch.setattr(CommitBatch, "write", full_disk)
        with pytest.raises(StoreFull):
            Store(path)
    assert versions(path) == (FORMAT_VERSION, version)
    with Store(path, read_only=True) as store:
        read_golden(store, version)
    Store(path).close()
    assert versions(path) == (FORMAT_VERSION, FORMAT_VERSION)
    with Store(path, read_only=True) as store:
        read_golden(store, version)


@before_this_format
def test_an_upgrade_adds_checksums_and_totals(tmp_path: Path, version: int) -> None:
    """Every row of an upgraded store has a checksum, every inode its totals, and no row is lost."""
    path = golden_store(tmp_path, version)
    old = {
        Table(name): {bytes.fromhex(key): bytes.fromhex(value) for key, value in rows}
        for name, rows in golden_index(version).items()
    }
    Store(path).abandon()
    with Store(path, read_only=True) as store:
        for table, rows in old.items():
            for key, value in rows.items():
                stored = store.index.rows.stored(table, key)
                assert stored is not None
                now = checked(table, key, stored)
                is_longer = table is Table.INODES
                assert now == value or (
                    table in CHANGED_BY_UPGRADE and len(now) == len(value) + 8 * is_longer
                )
        for node in CheckView(store).inodes():
            totals = CheckView(store).inode_totals.get(node.inode, Totals())
            assert Totals.of(node) == totals
        assert store.inodes.get(store.namespace.lookup(ROOT, b"staged")).staging_rows == 1


def test_an_old_format_file_is_upgraded(tmp_path: Path) -> None:
    """An old format file over rows of this format is replaced by a new one."""
    path = golden_store(tmp_path, FORMAT_VERSION)
    (path / FORMAT_FILE).write_text(FORMAT_TEXT.format(version=1))
    Store(path).abandon()
    assert versions(path) == (FORMAT_VERSION, FORMAT_VERSION)


def test_a_damaged_old_store_is_upgraded_by_repair(tmp_path: Path) -> None:
    """Repair upgrades an old store and reports that; sound rows stay."""
    path = golden_store(tmp_path, 1)
    assert repair(path, data=True).actions == []
    assert versions(path) == (1, 1)
    index = Index(Directory(path / "index"))
    with index.change():
        index.delete(Table.SYMLINKS, next(index.pages(Table.SYMLINKS))[0])
    index.commit()
    index.close()
    assert repair(path).after.findings == []
    assert versions(path) == (FORMAT_VERSION, FORMAT_VERSION)


@every_format
def test_an_old_store_can_be_written_to(tmp_path: Path, version: int) -> None:
    """New content in an old store shares the chunks that are there."""
    with Store(golden_store(tmp_path, version)) as store:
        if version > 3:
            with pytest.raises(OSError, match="cannot store /staged in chunks: 4 bytes"):
                ingest_all(store)
            store.writes.truncate(store.namespace.lookup(ROOT, b"staged"), 60)
        ingest_all(store)
        before = store.inventory.statistics().stored_bytes
        inode = store.namespace.create(ROOT, b"copy", FILE, SOMEBODY).inode
        store.writes.write(inode, 0, MODEL)
        ingest_all(store)
        assert store.inventory.statistics().stored_bytes == before
        collect(store)
        assert check(store, data=True) == []
