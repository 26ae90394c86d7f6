"""Recovery: a store is opened as of its last commit, and damage keeps the rest usable."""

import logging
import os

import pytest

from modelfs.errors import ModelfsError
from modelfs.jobs.check.fsck import check
from modelfs.store.index.chunk_records import PackRow
from modelfs.store.index.index_file import IndexFile
from modelfs.store.index.tables import ROOT, InodeNumber, PackId, Table, number_key
from modelfs.store.packs import segment
from modelfs.store.packs.cuts import DeferredCuts
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.run_jobs import collector_of, drain, ingest_file
from tests.support.stores import (
    CHUNK,
    WINDOW,
    Box,
    content_of,
    names_in,
    new_file,
    noise,
    pack_path,
    stored_file,
)


def test_generations_go_on_after_a_crash(box: Box) -> None:
    """After the store is opened again, a new window gets no old name."""
    inode = new_file(box.store, b"f", b"old")
    box.store.flush(inode)
    box.store.commit()
    (before,) = names_in(box.store.staging.directory.path)
    store = box.crash()
    store.writes.truncate(inode, 0)
    store.writes.write(inode, 0, b"new")
    assert before in names_in(store.staging.directory.path)
    assert content_of(box.crash(), inode) == b"old"


def test_bytes_rewritten_before_a_kill_are_synced(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes rewritten before a kill are read after it, so opening the store syncs them."""
    inode = new_file(box.store, b"f", noise(100))
    box.store.flush(inode)
    box.store.commit()
    box.store.writes.write(inode, 0, noise(100, 1))
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))
    )
    store = box.crash()
    assert content_of(store, inode) == noise(100, 1)
    store.flush(inode)
    assert synced == [str(path) for path in store.staging.directory.path.iterdir()]


def test_files_that_no_row_mentions_go_when_a_store_is_opened(box: Box) -> None:
    """Opening deletes staging files without a row, and no others."""
    kept = new_file(box.store, b"kept", b"kept")
    box.store.flush(kept)
    box.store.commit()
    new_file(box.store, b"lost", b"lost")
    assert len(names_in(box.store.staging.directory.path)) == 2
    store = box.crash()
    assert len(names_in(store.staging.directory.path)) == 1
    assert content_of(store, kept) == b"kept"


def test_a_sweep_deletes_only_what_modelfs_makes(box: Box) -> None:
    """Files with other names, folders and links stay, in `staging` and in `packs`."""
    box.store.close()
    staging, packs = box.path / "staging", box.path / "packs"
    target = box.path.parent / "target"
    target.write_bytes(b"of another program")
    strange = [staging / name for name in ("notes.txt", "5-0", "05-0-1", "5-0-1.bak", "5-0-G")]
    strange += [packs / name for name in ("notes.txt", "1.pack", "00000001.pack.bak")]
    for path in strange:
        path.touch()
    for path in (staging / "5-0-2", packs / "00000009.pack"):
        path.mkdir()
        strange.append(path)
    for path in (staging / "5-0-3", packs / "00000008.pack"):
        path.symlink_to(target)
        strange.append(path)
    ours = [staging / "5-0-1", packs / "00000007.pack"]
    for path in ours:
        path.touch()
    store = box.crash()
    assert all(os.path.lexists(path) for path in strange)
    assert not any(path.exists() for path in ours)
    assert target.read_bytes() == b"of another program"
    assert check(store) == []


def test_a_crash_undoes_uncommitted_changes(box: Box) -> None:
    """Names, chunks and bytes in packs since the last commit are gone."""
    kept = stored_file(box.store, b"kept", noise(CHUNK, 1))
    size = pack_path(box.store.packs, 1).stat().st_size
    lost = new_file(box.store, b"lost", noise(CHUNK, 2))
    ingest_file(box.store, lost)
    assert pack_path(box.store.packs, 1).stat().st_size > size
    store = box.crash()
    assert [name for _, name, _ in store.dentries.listing(ROOT, 0, 9)] == [b"kept"]
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
    sync = IndexFile.sync

    def noted(file: IndexFile) -> None:
        there.append(lost.exists())
        sync(file)

    monkeypatch.setattr(IndexFile, "sync", noted)
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


@pytest.mark.usefixtures("windows")
def test_cut_bytes_do_not_come_back(box: Box) -> None:
    """Staged bytes behind a recorded truncation stay gone when the file grows after a crash."""
    data = noise(3 * WINDOW)
    inode = new_file(box.store, b"f", data)
    box.store.flush(inode)
    box.store.commit()
    box.store.writes.truncate(inode, 2 * WINDOW + 10)
    drain(box.store.flusher.trim(inode))
    box.store.commit()
    store = box.crash()
    size = store.contents.node(inode).size
    store.writes.truncate(inode, len(data))
    store.flush(inode)
    store.commit()
    expected = data[:size].ljust(len(data), b"\0")
    assert content_of(store, inode) == expected
    assert content_of(box.crash(), inode) == expected


def half_collected(box: Box, monkeypatch: pytest.MonkeyPatch) -> list[InodeNumber]:
    """Collect a pack until its first cut is committed, and not done; return the files' inodes."""
    monkeypatch.setattr(segment, "SEGMENT_SIZE", 4 * CHUNK)
    store = box.store
    inodes = [stored_file(store, b"%d" % number, noise(4 * CHUNK, number)) for number in range(8)]
    store.commit()
    collector = collector_of(store)
    store.packs.seal(PackId(1))
    segments = collector.segments(PackId(1))
    portion = collector.portion(segments, 9 * CHUNK)
    assert 0 < portion.segments < len(segments.starts)
    drain(store.publish(collector.copy(portion, store.writer())))
    assert collector.cut(segments, portion, has_chunks=False)
    monkeypatch.setattr(DeferredCuts, "run", lambda _, cuts: None)
    store.commit()
    monkeypatch.undo()
    return inodes


def test_a_cut_that_a_crash_left_is_done(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening cuts a pack whose end gc has copied, and no other one."""
    inodes = half_collected(box, monkeypatch)
    stop = box.store.chunks.pack_row(PackId(1)).stop
    before = [path.stat().st_size for path in sorted(box.store.packs.directory.path.iterdir())]
    store = box.crash()
    assert stop < before[0]
    after = [path.stat().st_size for path in sorted(store.packs.directory.path.iterdir())]
    assert after == [stop, before[1]]
    for number, inode in enumerate(inodes):
        assert content_of(store, inode) == noise(4 * CHUNK, number)


def test_nothing_is_appended_to_a_pack_that_was_cut(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest pack stays as gc has cut it, in later sessions too: no place gets other bytes."""
    half_collected(box, monkeypatch)
    store, number = box.store, 8
    while store.chunks.pack_row(PackId(2)).live:  # the last files were copied there
        number -= 1
        drain(store.orphans.remove(store.namespace.unlink(ROOT, b"%d" % number)))
    assert store.reclaimer.retire(PackId(2))
    store = box.reopen()
    assert store.packs.numbers() == {PackId(1)}
    size = store.packs.size(PackId(1))
    store.roll_back_writer()  # as after an error
    inode = stored_file(store, b"new", noise(4 * CHUNK, 100))
    assert store.packs.size(PackId(1)) == size
    assert content_of(store, inode) == noise(4 * CHUNK, 100)


def test_an_end_with_chunks_is_not_cut(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack whose row ends too early keeps the bytes of all chunks."""
    inodes = half_collected(box, monkeypatch)
    store = box.crash()
    stop = store.chunks.pack_row(PackId(1)).stop
    row = store.chunks.pack_row(PackId(1))
    with store.index.change():
        store.chunks.put_pack_row(PackId(1), PackRow(PAGE, row.live))
    store.commit()
    store.abandon()
    with Store(box.path) as opened:
        assert opened.packs.size(PackId(1)) == stop
        assert content_of(opened, inodes[0]) == noise(4 * CHUNK)
        with opened.index.change():
            opened.chunks.put_pack_row(PackId(1), row)
    box.store = Store(box.path)
