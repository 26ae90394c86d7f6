"""Stores as a whole: creating, opening, locking, recovery, commits, statistics."""

import contextlib
import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelfs.errors import (
    CorruptIndex,
    ModelfsError,
    NotAStore,
    StoreBusy,
    StoreReadOnly,
    UnsupportedFormat,
)
from modelfs.jobs.check.fsck import check
from modelfs.store import create as making
from modelfs.store.create import create_store
from modelfs.store.disk.calls import run_here
from modelfs.store.folder import FORMAT_FILE, FORMAT_TEXT
from modelfs.store.index import index as index_module
from modelfs.store.index.index import Index
from modelfs.store.index.records import FORMAT_VERSION, SUPERBLOCK
from modelfs.store.index.tables import ROOT, PackId, Table, number_key
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all, ingest_file
from tests.support.stores import (
    CHUNK,
    FOLDER,
    ME,
    Box,
    check_closed,
    content_of,
    new_file,
    noise,
    pack_path,
    run_apart,
    stored_file,
)

HOLD = """
import sys
from pathlib import Path
from modelfs.store.store import Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
store.abandon()
"""


# -- creating


def test_a_new_store_is_empty_and_private(tmp_path: Path) -> None:
    """A new store is sound, has an empty root, and is readable by its owner only."""
    create_store(tmp_path / "new")
    assert check_closed(tmp_path / "new") == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    with Store(tmp_path / "new") as store:
        assert store.namespace.listing(ROOT, 0, 9) == []
        assert store.superblock.chunk_size == making.CHUNK_SIZE
        assert store.statistics().files == 0


def test_two_stores_hash_differently(tmp_path: Path) -> None:
    """Each store has its own identity and hash seed."""
    blocks = []
    for name in ("one", "two"):
        create_store(tmp_path / name)
        with Store(tmp_path / name) as store:
            blocks.append(store.superblock)
    assert blocks[0].uuid != blocks[1].uuid
    assert blocks[0].hash_seed != blocks[1].hash_seed


def test_a_store_is_made_in_an_empty_folder_only(tmp_path: Path) -> None:
    """A folder with any file in it is left as it is."""
    (tmp_path / "file").touch()
    with pytest.raises(NotAStore):
        create_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- opening


def test_other_folders_are_no_stores(tmp_path: Path) -> None:
    """A missing folder, a file, and a folder without a format file are no stores."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file", tmp_path):
        with pytest.raises(NotAStore):
            Store(path)


@pytest.mark.parametrize("text", ["", "something else", "modelfs store, format x\n"])
def test_a_format_file_has_a_fixed_text(folder: Path, text: str) -> None:
    """A folder whose format file has another text is no store."""
    (folder / FORMAT_FILE).write_text(text)
    with pytest.raises(NotAStore):
        Store(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    """A store of a later version is neither read nor written."""
    newer = FORMAT_TEXT.format(version=FORMAT_VERSION + 1)
    (folder / FORMAT_FILE).write_text(newer)
    for read_only in (False, True):
        with pytest.raises(UnsupportedFormat):
            Store(folder, read_only=read_only)


def test_one_process_writes(box: Box) -> None:
    """A second writer is refused with StoreBusy; readers are not."""
    script = """
import sys
from pathlib import Path
from modelfs.errors import StoreBusy
from modelfs.jobs.check.fsck import check
from modelfs.store.store import Store
try:
    Store(Path(sys.argv[1]))
except StoreBusy as exc:
    print("busy")
with Store(Path(sys.argv[1]), read_only=True) as store:
    print(len(store.namespace.listing(1, 0, 9)), check(store, data=True))
"""
    stored_file(box.store, b"f", noise(CHUNK))
    assert run_apart(script, box.path).splitlines() == ["busy", "1 []"]


def test_a_lock_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable lock file is an error that names the file and the store's owner."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    owner = folder.stat().st_uid
    message = rf"permission denied: {folder}/lock \(owned by UID {owner}; try sudo\)"
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoreReadOnly, match=message):
            Store(folder)


def test_a_killed_writer_holds_no_lock(folder: Path) -> None:
    """The lock ends with its process, even if that is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(StoreBusy):
            Store(folder)
        process.kill()
    with Store(folder) as store:
        assert check(store) == []


def test_a_store_that_could_not_be_opened_is_not_locked(folder: Path) -> None:
    """A store that failed to open can be opened once the cause is repaired."""
    index = Index(folder / "index")
    block = index.get(Table.META, SUPERBLOCK)
    assert block is not None
    with index.change():
        index.delete(Table.META, SUPERBLOCK)
    index.commit()
    index.close()
    for _ in range(2):
        with pytest.raises(CorruptIndex):
            Store(folder)
    index = Index(folder / "index")
    with index.change():
        index.put(Table.META, SUPERBLOCK, block)
    index.commit()
    index.close()
    Store(folder).close()


def test_a_reader_changes_nothing(folder: Path) -> None:
    """A read-only store refuses changes, and its files stay as they are."""
    with Store(folder) as store:
        inode = stored_file(store, b"f", noise(CHUNK))
        staged = new_file(store, b"g", b"staged")
        store.flush(staged)
        store.commit()
    (folder / "packs" / "00000099.pack").write_bytes(b"left by a crash")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with Store(folder, read_only=True) as store:
        assert content_of(store, inode) == noise(CHUNK)
        assert content_of(store, staged) == b"staged"
        with pytest.raises(StoreReadOnly):
            store.namespace.create(ROOT, b"new", FOLDER, ME)
        assert check(store, data=True) == []
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if after[path] != before[path]} <= {"lock.mdb"}


# -- crashes


def test_a_crash_undoes_uncommitted_changes(box: Box) -> None:
    """Names, chunks and bytes in packs since the last commit are gone."""
    kept = stored_file(box.store, b"kept", noise(CHUNK, 1))
    size = pack_path(box.store.packs, 1).stat().st_size
    lost = new_file(box.store, b"lost", noise(CHUNK, 2))
    ingest_file(box.store, lost)
    assert pack_path(box.store.packs, 1).stat().st_size > size
    store = box.crash()
    assert [name for _, name, _ in store.namespace.listing(ROOT, 0, 9)] == [b"kept"]
    assert content_of(store, kept) == noise(CHUNK, 1)
    assert pack_path(store.packs, 1).stat().st_size == size


def test_an_uncommitted_pack_is_removed(box: Box) -> None:
    """Opening removes a pack that was begun and not committed."""
    inode = new_file(box.store, b"f", noise(CHUNK))
    box.store.commit()
    ingest_file(box.store, inode)
    assert box.store.packs.numbers() == {PackId(1)}
    store = box.crash()
    assert store.packs.numbers() == set()
    new = stored_file(store, b"new", noise(CHUNK, 1))
    assert content_of(box.crash(), new) == noise(CHUNK, 1)


def test_the_index_is_synced_before_anything_is_removed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncommitted files are removed only once the last commit is durable."""
    lost = pack_path(box.store.packs, 7)
    lost.write_bytes(b"left by a killed process")
    there: list[bool] = []
    sync = Index.sync

    def noted(index: Index) -> None:
        there.append(lost.exists())
        sync(index)

    monkeypatch.setattr(Index, "sync", noted)
    box.crash()
    assert there == [True]
    assert not lost.exists()


def test_a_missing_newest_pack_keeps_the_rest_usable(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    """A store opens without its newest pack, logs that, and stores new files."""
    lost = stored_file(box.store, b"lost", noise(CHUNK))
    path = pack_path(box.store.packs, 1)
    box.store.close()
    whole = path.read_bytes()
    path.unlink()
    box.store = Store(box.path)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert [finding.invariant for finding in check(box.store)] == ["pack-file"]
    with pytest.raises(ModelfsError):
        content_of(box.store, lost)
    new = stored_file(box.store, b"new", noise(CHUNK, 1))
    writer = box.store.writer()
    writer.finish()
    box.store.roll_back_writer()
    more = stored_file(box.store, b"more", noise(CHUNK, 2))
    assert content_of(box.store, new) == noise(CHUNK, 1)
    assert content_of(box.store, more) == noise(CHUNK, 2)
    path.write_bytes(whole)
    assert content_of(box.store, lost) == noise(CHUNK)


def test_a_damaged_row_of_staging_keeps_the_rest_usable(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    """A store opens with a damaged staging row, deletes nothing, and fsck names the file."""
    damaged = new_file(box.store, b"hurt", b"hurt")
    fine = new_file(box.store, b"fine", b"fine")
    for inode in (damaged, fine):
        box.store.flush(inode)
    key = number_key(damaged) + number_key(0)
    value = box.store.index.get(Table.STAGED, key)
    assert value is not None
    with box.store.index.change():
        box.store.index.put(Table.STAGED, key, b"damaged")
    box.store.commit()
    box.store.abandon()
    box.store = Store(box.path)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    (finding,) = check(box.store)
    assert finding.files == (b"/hurt",)
    assert content_of(box.store, fine) == b"fine"
    with box.store.index.change():
        box.store.index.put(Table.STAGED, key, value)
    box.store.commit()
    assert content_of(box.crash(), damaged) == b"hurt"


# -- commits


def test_a_commit_is_in_three_parts(box: Box) -> None:
    """Changes made while a commit is written belong to the next one."""
    new_file(box.store, b"first")
    commit = box.store.commit_calls()
    write = next(commit)
    new_file(box.store, b"second")
    write()
    run_here(commit)
    assert box.store.index.dirty
    store = box.crash()
    assert [name for _, name, _ in store.namespace.listing(ROOT, 0, 9)] == [b"first"]


def test_a_failed_commit_is_tried_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed commit changes nothing, and the next one has all its changes."""
    inode = new_file(box.store, b"f", b"content")

    def fails(self: Index, changes: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(index_module.Index, "apply", fails)
        with pytest.raises(OSError, match="error"):
            box.store.commit()
    assert box.store.namespace.lookup(ROOT, b"f") == inode
    assert content_of(box.store, inode) == b"content"
    ingest_all(box.store)
    assert content_of(box.crash(), inode) == b"content"


def test_leaving_a_block_by_an_error_commits_nothing(folder: Path) -> None:
    """A `with` block closes the store, or abandons it after an exception."""
    with Store(folder) as store:
        new_file(store, b"kept")
    with contextlib.suppress(KeyError), Store(folder) as store:
        new_file(store, b"lost")
        raise KeyError
    with Store(folder) as store:
        assert [name for _, name, _ in store.namespace.listing(ROOT, 0, 9)] == [b"kept"]


# -- statistics


def test_sum_of_the_longest_files(box: Box) -> None:
    """Files whose lengths sum up to more than 64 bits are counted, committed and checked."""
    longest = (1 << 63) - 1
    inodes = [new_file(box.store, name) for name in (b"a", b"b", b"c")]
    for inode in inodes:
        box.store.writes.truncate(inode, longest)
    ingest_all(box.store)
    box.reopen()
    assert box.store.statistics().logical_bytes == 3 * longest
    for inode in inodes:
        box.store.writes.truncate(inode, 1)
    assert box.store.statistics().logical_bytes == 3


def test_statistics_add_up(opened: Store) -> None:
    """Shared, stored and staged bytes are counted."""
    for name in (b"a", b"b"):
        stored_file(opened, name, noise(2 * CHUNK))
    new_file(opened, b"c", b"staged")
    statistics = opened.statistics()
    assert statistics.files == 3
    assert statistics.logical_bytes == 4 * CHUNK + 6
    assert statistics.stored_bytes == statistics.shared_bytes == 2 * CHUNK
    assert statistics.chunks == 2
    assert statistics.staged_bytes == 6
    assert statistics.pending_files == 1
    assert statistics.forms == {
        "plain": {"chunks": 2, "raw_bytes": 2 * CHUNK, "stored_bytes": 2 * CHUNK}
    }
    assert statistics.disk_bytes >= 2 * CHUNK + PAGE


def test_collecting_frees_unused_chunks(opened: Store) -> None:
    """After a file is removed and collected, only the others' bytes are stored."""
    stored_file(opened, b"a", noise(4 * CHUNK, 1))
    kept = stored_file(opened, b"b", noise(CHUNK, 2))
    opened.namespace.unlink(ROOT, b"a")
    assert collect(opened) > 4 * CHUNK
    assert opened.statistics().stored_bytes == CHUNK
    assert content_of(opened, kept) == noise(CHUNK, 2)
