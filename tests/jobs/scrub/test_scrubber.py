"""Scrubbing finds what the disk lost, goes on where it was, and forgets what was healed."""

import os

import pytest

from modelfs.errors import CorruptChunk
from modelfs.jobs.drive import run
from modelfs.jobs.scrub.job import scrub_next
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import REMEMBERED_MAX, TABLE_MAX, PackRange, Scrubber
from modelfs.store.chunks import verified
from modelfs.store.index.counters import SCRUB_DAMAGED
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, PackId, Table, prefix_end
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.run_jobs import collect, drain, ingest_all
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    model_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)


def scrub(store: Store, ranges: int = 1 << 30) -> list[PackRange]:
    """Check up to so many ranges, and return what was found in each."""
    scrubber, done = Scrubber(store), list[PackRange]()
    while len(done) < ranges and (checked := run(scrub_next(scrubber), store)) is not None:
        done.append(checked)
    return done


def place_of(store: Store, inode: InodeNumber, offset: int = 0) -> tuple[PackId, int]:
    """Return the pack, and the offset in it, of the chunk that holds a byte of a file."""
    extent = next(store.maps.overlapping(inode, offset, offset + 1))
    record = store.chunks.record(extent.chunk)
    return record.pack, record.offset


def damage(store: Store, inode: InodeNumber, offset: int = 0) -> None:
    pack, at = place_of(store, inode, offset)
    overwrite(pack_path(store.packs, pack), at + 10, b"rotten")


def test_a_sound_store(opened: Store) -> None:
    """Every used chunk of every pack is checked, and nothing is found."""
    for number in range(5):
        stored_file(opened, b"%d" % number, noise(3 * CHUNK, number))
    Scrubber(opened).begin()
    assert [checked.damaged for checked in scrub(opened)] == [{}] * 5
    status = Scrubber(opened).status()
    assert (status.chunks, status.bytes) == (15, 15 * CHUNK)
    assert status.done == status.total > 15 * CHUNK
    assert status.ended_ns >= status.started_ns > 0


def test_an_empty_store(opened: Store) -> None:
    """Where nothing is stored, a scrub ends at once; before it, there was none."""
    assert Scrubber(opened).status().started_ns == 0
    Scrubber(opened).begin()
    assert scrub(opened) == []
    assert Scrubber(opened).status().ended_ns > 0


def test_damage_is_named(opened: Store) -> None:
    """A rotten block is told with the chunk, and whom it hurts with files and tensors."""
    data = model_of(noise(CHUNK), noise(CHUNK, 1), noise(CHUNK, 2))
    inodes = [stored_file(opened, name, data) for name in (b"a", b"b")]
    damage(opened, inodes[0], len(data) - CHUNK - 1)
    Scrubber(opened).begin()
    (checked,) = scrub(opened)
    assert "do not match their checksum" in "".join(checked.damaged.values())
    (finding,) = scrub_report(opened)["findings"]
    assert finding["files"] == ["/a", "/b"]
    assert finding["tensors"] == ("t1",)
    new_file(opened, b"good", data)
    ingest_all(opened)
    assert scrub_report(opened)["findings"] == []


def test_what_was_verified_before_is_not_trusted(opened: Store) -> None:
    """A chunk that was read once, and then rotted, is an error to the readers after the scrub."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    assert content_of(opened, inode) == noise(CHUNK)
    damage(opened, inode)
    assert content_of(opened, inode) != noise(CHUNK)
    Scrubber(opened).begin()
    scrub(opened)
    with pytest.raises(CorruptChunk):
        content_of(opened, inode)
    stored_file(opened, b"good", noise(CHUNK))
    assert content_of(opened, inode) == noise(CHUNK)


def test_trust_ends(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that was read a while ago is verified once more: the disk may have rotted."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    assert content_of(opened, inode) == noise(CHUNK)
    damage(opened, inode)
    monkeypatch.setattr(verified, "TRUST_SECONDS", 0)
    with pytest.raises(CorruptChunk):
        content_of(opened, inode)
    stored_file(opened, b"good", noise(CHUNK))


def test_it_goes_on_after_a_crash(box: Box) -> None:
    """What a commit has of a scrub is not done again; what came meanwhile is."""
    for number in range(4):
        stored_file(box.store, b"%d" % number, noise(CHUNK, number))
    Scrubber(box.store).begin()
    scrub(box.store, 2)
    box.store.commit()
    scrub(box.store, 1)
    store = box.crash()
    stored_file(store, b"new", noise(CHUNK, 9))
    assert not Scrubber(store).status().ended_ns
    Scrubber(store).begin()
    assert len(scrub(store)) == 3
    assert Scrubber(store).status().chunks == 5


def test_anew(opened: Store) -> None:
    """Asked to, it begins at the beginning; so it does after one that ended."""
    for number in range(3):
        stored_file(opened, b"%d" % number, noise(CHUNK, number))
    Scrubber(opened).begin()
    scrub(opened, 2)
    Scrubber(opened).begin(restart=True)
    assert len(scrub(opened)) == 3
    Scrubber(opened).begin()
    assert len(scrub(opened)) == 3
    assert Scrubber(opened).status().chunks == 3


def test_many_packs(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are checked in order, also those that gc deletes or adds in between."""
    monkeypatch.setattr(pack_module, "PACK_SIZE", 8 * CHUNK)
    inodes = [stored_file(opened, b"%d" % number, noise(CHUNK, number)) for number in range(8)]
    assert len({place_of(opened, inode)[0] for inode in inodes}) > 2
    Scrubber(opened).begin()
    scrub(opened, 2)
    checked = Scrubber(opened).next_range()
    assert checked is not None
    for number in range(6):
        drain(opened.orphans.remove(opened.namespace.unlink(ROOT, b"%d" % number)))
    collect(opened)
    Scrubber(opened).check(checked)
    assert (checked.damaged, checked.problems) == ({}, [])
    Scrubber(opened).apply(checked)
    assert all(not each.damaged for each in scrub(opened))


@pytest.mark.parametrize("at", [10, PAGE + 30])
def test_damaged_tables(box: Box, at: int) -> None:
    """Where a header or a table is damaged, the pack's chunks are checked all the same."""
    store = box.store
    inodes = [stored_file(store, b"%d" % number, noise(CHUNK, number)) for number in range(3)]
    path = pack_path(store.packs, 1)
    good = path.read_bytes()
    overwrite(path, at, b"rotten")
    damage(store, inodes[2])
    Scrubber(store).begin()
    (checked,) = scrub(store)
    assert len(checked.problems) == 1
    assert (checked.chunks, len(checked.damaged)) == (3, 1)
    path.write_bytes(good)


def test_a_missing_pack(opened: Store) -> None:
    """All chunks of a pack that is gone are damaged."""
    for number in range(3):
        stored_file(opened, b"%d" % number, noise(CHUNK, number))
    path = pack_path(opened.packs, 1)
    opened.packs.close()
    hidden = path.rename(path.with_suffix(".away"))
    Scrubber(opened).begin()
    (checked,) = scrub(opened)
    assert len(checked.damaged) == 3
    hidden.rename(path)


def test_dead_chunks_are_passed_over(opened: Store) -> None:
    """What nothing uses any more is no damage."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    stored_file(opened, b"g", noise(CHUNK, 1))
    damage(opened, inode)
    drain(opened.orphans.remove(opened.namespace.unlink(ROOT, b"f")))
    Scrubber(opened).begin()
    assert all(not checked.damaged for checked in scrub(opened))


def test_the_disk_is_read(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel forgets the pages before they are read: memory is not what is checked."""
    stored_file(opened, b"f", noise(CHUNK))
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, at, size, advice: advised.append((at, size))
    )
    Scrubber(opened).begin()
    scrub(opened)
    page = PAGE
    assert advised == [(0, page + TABLE_MAX), (page, 2 * page)]


def test_so_much_is_remembered(opened: Store) -> None:
    """A disk that is lost altogether does not fill the index with what it lost."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    checked = PackRange(PackId(1), 0, 0, places={ChunkId(each): 0 for each in range(2000)})
    Scrubber(opened).apply(checked)
    assert len(_rows(opened)) == REMEMBERED_MAX
    assert Scrubber(opened).damaged() == {}
    Scrubber(opened).forget_healed()
    assert _rows(opened) == []
    assert content_of(opened, inode) == noise(CHUNK)


def _rows(store: Store) -> list[tuple[bytes, bytes]]:
    return list(store.index.pages(Table.META, SCRUB_DAMAGED, prefix_end(SCRUB_DAMAGED)))
