"""A scrub finds damage, continues after a stop, and forgets healed chunks."""

import dataclasses
import errno
import os

import pytest

from modelfs.errors import CorruptChunk
from modelfs.jobs.scrub.job import scrub_next
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import REMEMBERED_MAX, TABLE_MAX, CheckedRange, PackRange, Scrubber
from modelfs.jobs.steps import Work
from modelfs.store.chunks import verified
from modelfs.store.index.counters import SCRUB_DAMAGED
from modelfs.store.index.tables import (
    ROOT,
    ChunkId,
    InodeNumber,
    PackId,
    Table,
    number_of,
    prefix_end,
)
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs import segment as segment_module
from modelfs.store.packs.pack import Tail
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.derived_chunks import pair, spoil
from tests.support.run_jobs import collect, collector_of, drain, ingest_all, scrub
from tests.support.served_store import Failing
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


def place_of(store: Store, inode: InodeNumber, offset: int = 0) -> tuple[PackId, int]:
    """Return the pack, and the offset in it, of the chunk that holds a byte of a file."""
    extent = next(store.maps.overlapping(inode, offset, offset + 1))
    record = store.chunks.record(extent.chunk)
    return record.pack, record.offset


def damage(store: Store, inode: InodeNumber, offset: int = 0) -> None:
    pack, at = place_of(store, inode, offset)
    overwrite(pack_path(store.packs, pack), at + 10, b"rotten")


def test_a_sound_store(opened: Store) -> None:
    """Every chunk in use of every pack is checked, and no damage is found."""
    for number in range(5):
        stored_file(opened, b"%d" % number, noise(3 * CHUNK, number))
    Scrubber(opened).begin()
    assert [checked.damaged for checked in scrub(opened)] == [{}] * 5
    status = Scrubber(opened).status()
    assert (status.chunks, status.bytes) == (15, 15 * CHUNK)
    assert status.done == status.total > 15 * CHUNK
    assert status.ended_ns >= status.started_ns > 0


def test_a_pack_that_is_cut_meanwhile(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that gc has cut off a pack since the scrub began are no damage."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 4 * CHUNK)
    kept = stored_file(opened, b"kept", noise(4 * CHUNK))
    for number in range(1, 4):
        stored_file(opened, b"%d" % number, noise(4 * CHUNK, number))
        opened.namespace.unlink(ROOT, b"%d" % number)
    opened.packs.seal(PackId(1))
    stop = opened.chunks.pack_row(PackId(1)).stop
    starts = collector_of(opened).segments(PackId(1)).starts
    assert len(starts) > 2
    for inode in opened.orphans.inodes():
        drain(opened.orphans.remove(inode))
    drain(opened.reclaimer.remove_dead())
    assert opened.reclaimer.cut(Tail(PackId(1), starts[1])) > 0
    opened.commit()
    checked = [Scrubber(opened).check(PackRange(PackId(1), start, stop, 0)) for start in starts]
    assert [range_.problems for range_ in checked] == [()] * len(starts)
    assert sum(range_.chunks for range_ in checked) == 4
    assert content_of(opened, kept) == noise(4 * CHUNK)


def test_an_empty_store(opened: Store) -> None:
    """A scrub of an empty store ends at once; a new store has had none."""
    assert Scrubber(opened).status().started_ns == 0
    Scrubber(opened).begin()
    assert scrub(opened) == []
    assert Scrubber(opened).status().ended_ns > 0


def test_damage_is_named(opened: Store) -> None:
    """Damage is reported with its chunk, and the report names the files and tensors affected."""
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


def test_verified_places_are_checked_again(opened: Store) -> None:
    """A chunk that was verified by a read, and then rotted, is an error to reads after a scrub."""
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


def test_verified_places_expire(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that was verified longer than `TRUST_SECONDS` ago is verified again by a read."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    assert content_of(opened, inode) == noise(CHUNK)
    damage(opened, inode)
    monkeypatch.setattr(verified, "TRUST_SECONDS", 0)
    with pytest.raises(CorruptChunk):
        content_of(opened, inode)
    stored_file(opened, b"good", noise(CHUNK))


def test_it_goes_on_after_a_crash(box: Box) -> None:
    """After a crash a scrub continues from the last commit, and reaches new segments."""
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


def test_a_scrub_may_begin_again(opened: Store) -> None:
    """`begin` starts with the first pack after a scrub that ended, and with `restart`."""
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
    """Packs are checked in order while gc deletes and adds some."""
    monkeypatch.setattr(pack_module, "PACK_SIZE", 8 * CHUNK)
    inodes = [stored_file(opened, b"%d" % number, noise(CHUNK, number)) for number in range(8)]
    assert len({place_of(opened, inode)[0] for inode in inodes}) > 2
    Scrubber(opened).begin()
    scrub(opened, 2)
    part = Scrubber(opened).next_range()
    assert part is not None
    for number in range(6):
        drain(opened.orphans.remove(opened.namespace.unlink(ROOT, b"%d" % number)))
    collect(opened)
    checked = Scrubber(opened).check(part)
    assert (checked.damaged, checked.problems) == ({}, ())
    Scrubber(opened).apply(part, checked)
    assert all(not each.damaged for each in scrub(opened))


@pytest.mark.parametrize("at", [10, PAGE + 30])
def test_damaged_tables(box: Box, at: int) -> None:
    """The chunks of a pack with a damaged header or segment table are checked, too."""
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
    """All chunks of a missing pack are damaged."""
    for number in range(3):
        stored_file(opened, b"%d" % number, noise(CHUNK, number))
    path = pack_path(opened.packs, 1)
    opened.packs.close()
    hidden = path.rename(path.with_suffix(".away"))
    Scrubber(opened).begin()
    (checked,) = scrub(opened)
    assert len(checked.damaged) == 3
    hidden.rename(path)


def test_dead_chunks_are_not_checked(opened: Store) -> None:
    """A damaged chunk that no file needs is not reported."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    stored_file(opened, b"g", noise(CHUNK, 1))
    damage(opened, inode)
    drain(opened.orphans.remove(opened.namespace.unlink(ROOT, b"f")))
    Scrubber(opened).begin()
    assert all(not checked.damaged for checked in scrub(opened))


def test_the_disk_is_read(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's cached pages are dropped before the read, so that the disk answers."""
    stored_file(opened, b"f", noise(CHUNK))
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, at, size, advice: advised.append((at, size))
    )
    Scrubber(opened).begin()
    scrub(opened)
    page = PAGE
    assert advised == [(0, page + TABLE_MAX), (page, 2 * page)]


def test_a_restart_during_a_read_begins_with_the_first_pack(opened: Store) -> None:
    """A scrub that begins again while a range is read checks all ranges; damage found is kept."""
    inodes = [stored_file(opened, b"%d" % number, noise(2 * CHUNK, number)) for number in range(3)]
    scrubber = Scrubber(opened)
    scrubber.begin()
    scrub(opened, 1)
    damage(opened, inodes[1])
    job = scrub_next(scrubber)
    work = next(job)
    assert isinstance(work, Work)
    checked = work.call()
    scrubber.begin(restart=True)
    with pytest.raises(StopIteration):
        job.send(checked)
    status = scrubber.status()
    assert (status.done, status.chunks, status.bytes) == (0, 0, 0)
    assert len(scrubber.damaged()) == 1
    assert len(scrub(opened)) == 3
    assert scrubber.status().chunks == 6
    stored_file(opened, b"good", noise(2 * CHUNK, 1))


def test_damage_rows_are_bounded(opened: Store) -> None:
    """At most `REMEMBERED_MAX` damaged chunks have a row in the index."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    checked = CheckedRange(PackId(1), 0, places={ChunkId(number): 0 for number in range(2000)})
    Scrubber(opened).apply(PackRange(PackId(1), 0, 0, 0), checked)
    assert len(_rows(opened)) == REMEMBERED_MAX
    assert Scrubber(opened).damaged() == {}
    Scrubber(opened).forget_healed()
    assert _rows(opened) == []
    assert content_of(opened, inode) == noise(CHUNK)


def test_bytes_that_are_sound_again_are_no_damage(opened: Store) -> None:
    """A range that is checked again, with its bytes restored, leaves no damage in the report."""
    inodes = [stored_file(opened, b"%d" % number, noise(CHUNK, number)) for number in range(3)]
    path = pack_path(opened.packs, 1)
    good = path.read_bytes()
    for inode in inodes[:2]:
        damage(opened, inode)
    scrubber = Scrubber(opened)
    scrubber.begin()
    scrub(opened)
    assert len(scrubber.damaged()) == 2
    at = place_of(opened, inodes[0])[1]
    overwrite(path, at, good[at:][:CHUNK])  # the other one stays damaged
    scrubber.begin()
    scrub(opened)
    (chunk,) = scrubber.damaged()
    assert scrubber.damaged().keys() == {next(opened.maps.overlapping(inodes[1], 0, 1)).chunk}
    assert [number_of(key[len(SCRUB_DAMAGED) :]) for key, _ in _rows(opened)] == [chunk]
    path.write_bytes(good)
    scrubber.begin()
    scrub(opened)
    assert _rows(opened) == []


def test_a_read_that_failed_once_is_no_damage(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of the disk that has passed, the next scrub finds the chunk sound."""
    stored_file(opened, b"f", noise(CHUNK))
    scrubber = Scrubber(opened)
    with monkeypatch.context() as patch:
        failing = Failing(opened.chunk_reader.check, OSError(errno.EIO, "broken"))
        patch.setattr(opened.chunk_reader, "check", failing)
        scrubber.begin()
        scrub(opened)
    assert len(scrubber.damaged()) == 1
    scrubber.begin()
    scrub(opened)
    assert scrubber.damaged() == {}


def test_damage_found_beside_a_sound_check_stays(opened: Store) -> None:
    """If a chunk fails in one read of a range and not in another, it is damaged."""
    stored_file(opened, b"f", noise(CHUNK))
    scrubber = Scrubber(opened)
    scrubber.begin()
    part = scrubber.next_range()
    assert part is not None
    chunk = ChunkId(1)
    place = PackId(1) << 32 | opened.chunks.record(chunk).offset
    found = CheckedRange(PackId(1), part.stop, damaged={chunk: ""}, places={chunk: place})
    scrubber.apply(part, dataclasses.replace(found, sound=(chunk,)))
    assert scrubber.damaged().keys() == {chunk}
    scrubber.apply(part, CheckedRange(PackId(1), part.stop, sound=(chunk, ChunkId(99))))
    assert _rows(opened) == []


def test_a_chunk_is_not_sound_while_its_source_is_damaged(opened: Store) -> None:
    """Recorded damage of a derived chunk stays until the chunk can be decoded."""
    _, _, base, part = pair(opened)
    records = [opened.chunks.record(chunk) for chunk in (base, part)]
    path = pack_path(opened.packs, records[0].pack)
    good = path.read_bytes()
    places = {part: records[1].pack << 32 | records[1].offset}
    Scrubber(opened).apply(PackRange(PackId(1), 0, 0, 1), CheckedRange(PackId(1), 0, places=places))
    spoil(opened, base)
    Scrubber(opened).begin()
    scrub(opened)
    assert Scrubber(opened).damaged().keys() == {base, part}
    path.write_bytes(good)
    Scrubber(opened).begin()
    scrub(opened)
    assert Scrubber(opened).damaged() == {}


def _rows(store: Store) -> list[tuple[bytes, bytes]]:
    return list(store.index.pages(Table.META, SCRUB_DAMAGED, prefix_end(SCRUB_DAMAGED)))
