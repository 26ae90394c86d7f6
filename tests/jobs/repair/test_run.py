"""Repair: data that other records still have is as it was, and the rest is reported as lost."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Final

import pytest

from modelfs.errors import StoreBusy
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import FsckReport, check, fsck
from modelfs.jobs.repair.context import Action, Outcome
from modelfs.jobs.repair.quarantine import FOLDER, ROWS
from modelfs.jobs.repair.run import ROUNDS_MAX, repair
from modelfs.jobs.steps import Progress
from modelfs.store.index.counters import (
    FILES,
    NEXT_CHUNK,
    NEXT_COOKIE,
    NEXT_INODE,
    NEXT_PACK,
    SESSION,
)
from modelfs.store.index.name_records import Listed
from modelfs.store.index.superblock import SUPERBLOCK
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    named_key,
    number_key,
    pair_key,
    triple_key,
)
from modelfs.store.store import Store
from tests.support.byte_damage import (
    Contents,
    drop_dentry,
    drop_line,
    drop_parent,
    files_of,
    lost_files,
    mend,
    state_of,
)
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import BASE, Sample
from tests.support.stores import new_file, overwrite

Damage = Callable[[Sample], None]
STAGED: Final = b"/staged"


def test_a_sound_store_is_not_changed(sample: Sample) -> None:
    """Repair of a sound store changes no byte of it, and makes no quarantine."""
    sample.store.close()
    before = state_of(sample.path)
    report = repair(sample.path, data=True)
    assert (report.found, report.actions, state_of(sample.path)) == ([], [], before)


def test_a_store_in_use_is_not_repaired(sample: Sample) -> None:
    """Who has the store open keeps repair from it."""
    with pytest.raises(StoreBusy):
        repair(sample.path)
    sample.store.abandon()


def test_a_finding_with_another_number_is_left(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finding of the last check is left, also if earlier checks worded it differently."""
    numbers = itertools.count()

    def check_again(store: Store, *, data: bool, progress: Progress | None) -> FsckReport:
        report = fsck(store, data=data, progress=progress)
        finding = Finding("total", f"the total is {next(numbers)}")
        return dataclasses.replace(report, findings=[*report.findings, finding])

    monkeypatch.setattr("modelfs.jobs.repair.run.fsck", check_again)
    sample.store.abandon()
    report = repair(sample.path)
    assert report.after.findings == [Finding("total", f"the total is {ROUNDS_MAX}")]
    assert [each.message for each in report.found] == [
        f"the total is {number}" for number in range(ROUNDS_MAX + 1)
    ]
    assert (report.repaired, report.left) == (ROUNDS_MAX, 1)


# -- damage that leaves enough to mend it


def recount_uses(sample: Sample) -> None:
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, dataclasses.replace(record, refs=1, ref_bytes=5))


def misplace_chunk(sample: Sample) -> None:
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, dataclasses.replace(record, offset=record.offset + 1))


def rechecksum_chunk(sample: Sample) -> None:
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, dataclasses.replace(record, checksum=record.checksum ^ 1))


def rehash_chunk(sample: Sample) -> None:
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, dataclasses.replace(record, digest=bytes(15) + b"\1"))


def drop_chunk(sample: Sample) -> None:
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.delete(Table.CHUNKS, number_key(chunk))


def junk_chunk(sample: Sample) -> None:
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.CHUNKS, number_key(chunk), b"junk!")


def strand_chunk(sample: Sample) -> None:
    key, _ = next(sample.store.index.pages(Table.DEAD))
    sample.delete(Table.DEAD, key)


def kill_chunk(sample: Sample) -> None:
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.DEAD, number_key(chunk), b"")


def drop_hash(sample: Sample) -> None:
    _, record = sample.chunk_at(sample.base, 1000)
    sample.delete(Table.HASHES, record.digest)


def drop_pack_row(sample: Sample) -> None:
    sample.delete(Table.PACKS, number_key(1))


def shorten_pack_row(sample: Sample) -> None:
    sample.put_row(dataclasses.replace(sample.row(), stop=8192))


def lengthen_pack_row(sample: Sample) -> None:
    sample.put_row(dataclasses.replace(sample.row(), stop=1 << 40))


def miscount_pack(sample: Sample) -> None:
    sample.put_row(dataclasses.replace(sample.row(), live=0))


def damage_pack_header(sample: Sample) -> None:
    overwrite(sample.pack, 8, b"damaged!")


def damage_segment_table(sample: Sample) -> None:
    overwrite(sample.pack, 4096 + 24, b"damaged")


def damage_segment_header(sample: Sample) -> None:
    overwrite(sample.pack, 4096, b"damaged")


def junk_dentry(sample: Sample) -> None:
    sample.put(Table.DENTRIES, number_key(sample.folder) + b"text", b"junk!")


def mislead_dentry(sample: Sample) -> None:
    dentry = sample.dentry(sample.folder, b"text")
    wrong = dataclasses.replace(dentry, inode=InodeNumber(1000))
    sample.put(Table.DENTRIES, number_key(sample.folder) + b"text", wrong.to_bytes())


def bad_cookie(sample: Sample) -> None:
    dentry = sample.dentry(sample.folder, b"text")
    line = sample.value(Table.LISTING, pair_key(sample.folder, dentry.cookie))
    for cookie in (dentry.cookie, 1):
        sample.delete(Table.LISTING, pair_key(sample.folder, dentry.cookie))
        sample.delete(Table.PARENTS, triple_key(sample.text, sample.folder, cookie))
    wrong = dataclasses.replace(dentry, cookie=1)
    sample.put(Table.DENTRIES, number_key(sample.folder) + b"text", wrong.to_bytes())
    sample.put(Table.LISTING, pair_key(sample.folder, 1), line)
    sample.put(Table.PARENTS, triple_key(sample.text, sample.folder, 1), b"")


def twin_cookie(sample: Sample) -> None:
    dentry, cookie = sample.dentry(sample.folder, b"text"), sample.dentry(ROOT, b"cut").cookie
    drop_line(sample)
    drop_parent(sample)
    wrong = dataclasses.replace(dentry, cookie=cookie)
    line = Listed(dentry.inode, b"text")
    sample.put(Table.DENTRIES, number_key(sample.folder) + b"text", wrong.to_bytes())
    sample.put(Table.LISTING, pair_key(sample.folder, cookie), line.to_bytes())
    sample.put(Table.PARENTS, triple_key(sample.text, sample.folder, cookie), b"")


def wrong_links(sample: Sample) -> None:
    for inode in (sample.text, sample.folder, ROOT):
        sample.put_node(dataclasses.replace(sample.node(inode), nlink=9))


def wrong_parent(sample: Sample) -> None:
    sample.put_node(dataclasses.replace(sample.node(sample.folder), parent=sample.text))


def named_orphan(sample: Sample) -> None:
    sample.put(Table.ORPHANS, number_key(sample.text), b"")


def unlisted_orphan(sample: Sample) -> None:
    sample.delete(Table.ORPHANS, number_key(sample.orphan))


def wrong_target_size(sample: Sample) -> None:
    sample.put_node(dataclasses.replace(sample.node(sample.link), size=100))


def counters_behind(sample: Sample) -> None:
    for counter in (NEXT_INODE, NEXT_CHUNK, NEXT_PACK, NEXT_COOKIE):
        sample.count(counter, 0)


def wrong_totals(sample: Sample) -> None:
    sample.count(FILES, 99)
    sample.count(b"form.strange.chunks", 1)


def superblock_version(sample: Sample) -> None:
    block = dataclasses.replace(sample.store.superblock, version=9)
    sample.put(Table.META, SUPERBLOCK, block.to_bytes())


def drop_superblock(sample: Sample) -> None:
    sample.delete(Table.META, SUPERBLOCK)


def forget_truncation(sample: Sample) -> None:
    sample.delete(Table.TRIMS, number_key(sample.cut))


def shrink_file(sample: Sample) -> None:
    sample.put_node(dataclasses.replace(sample.node(sample.text), size=10))


def rows_of_nobody(sample: Sample) -> None:
    sample.put(Table.XATTRS, number_key(1000) + b"user.x", b"")
    sample.put(Table.TENSORS, number_key(sample.folder) + bytes(12), b"\1" + bytes(9))


MENDED: Final[tuple[Damage, ...]] = (
    *(recount_uses, misplace_chunk, rechecksum_chunk, rehash_chunk, drop_chunk, junk_chunk),
    *(strand_chunk, kill_chunk, drop_hash, drop_pack_row, shorten_pack_row, lengthen_pack_row),
    *(miscount_pack, damage_pack_header, damage_segment_table, damage_segment_header),
    *(drop_dentry, junk_dentry, mislead_dentry, drop_line, drop_parent, bad_cookie, twin_cookie),
    *(wrong_links, wrong_parent, named_orphan, unlisted_orphan, wrong_target_size),
    *(counters_behind, wrong_totals, superblock_version, shrink_file),
    rows_of_nobody,
)


def test_a_forgotten_truncation_loses_its_file(sample: Sample, good: Contents) -> None:
    """Bytes that were cut off, and may have been replaced by zeros, do not come back."""
    forget_truncation(sample)
    report = mend(sample)
    assert lost_files(report) == {b"/cut"}
    assert files_of(sample.path) == good | {b"/cut": None}


@pytest.mark.parametrize("damage", MENDED, ids=lambda damage: damage.__name__)
def test_redundant_rows_are_restored(sample: Sample, good: Contents, damage: Damage) -> None:
    """Damage to what other rows or the packs say, too, leaves every file under its name, whole."""
    damage(sample)
    report = mend(sample)
    assert files_of(sample.path) == good
    assert lost_files(report) == set()


@pytest.mark.parametrize("table", [each for each in Table if each is not Table.SYMLINKS])
def test_every_table_is_mended(sample: Sample, good: Contents, table: Table) -> None:
    """A row of any table that does not decode affects only files that the report names."""
    if table is Table.LOST:
        sample.lose(10, 30)
    keys = [key for key, _ in sample.store.index.pages(table)]
    key = keys[1] if table is Table.INODES else keys[0]  # the root has a test of its own
    sample.put(table, b"\0", b"value")
    sample.put(table, key, b"junk!")
    report = mend(sample)
    hurt = lost_files(report)
    for path, data in files_of(sample.path).items():
        assert path in hurt or path.startswith(b"/lost+found") or data == good[path], path
    rows = (sample.path / FOLDER / ROWS).read_text().splitlines()
    assert {json.loads(row)["table"] for row in rows} >= {table.value}


def test_an_index_without_a_superblock_gets_one(sample: Sample, good: Contents) -> None:
    """With a new seed all chunks are hashed again, and equal content is shared as before."""
    drop_superblock(sample)
    sample.store.index.commit()
    sample.store.abandon()
    report = repair(sample.path)
    assert (report.found[0].invariant, report.after.findings) == (
        "superblock",
        [],
    )
    assert files_of(sample.path) == good
    with Store(sample.path) as store:
        ingest_all(store)
        before = store.inventory.statistics().stored_bytes
        data = good[BASE]
        assert data is not None
        new_file(store, b"copy", data)
        ingest_all(store)
        assert store.inventory.statistics().stored_bytes == before


def test_a_repair_begins_a_session(sample: Sample) -> None:
    """Numbers that a repair gives out are no others', and readers drop their caches."""
    counters = sample.store.counters
    before = counters.get(SESSION), counters.get(NEXT_INODE)
    sample.delete(Table.DENTRIES, number_key(ROOT) + b"staged")
    sample.store.index.commit()
    sample.store.abandon()
    assert repair(sample.path).after.findings == []
    with Store(sample.path, read_only=True) as store:
        assert store.counters.get(SESSION) != before[0]
        assert store.counters.get(NEXT_INODE) > before[1]


def test_missing_tensors_are_found_again(sample: Sample, good: Contents) -> None:
    """Ingest makes missing rows of tensors again after a repair, and nothing is lost."""
    before = dict(sample.store.index.pages(Table.TENSORS))
    for key in list(before)[:2]:
        sample.delete(Table.TENSORS, key)
    sample.store.close()
    report = repair(sample.path)
    assert report.after.findings == []
    assert [(action.outcome, action.files) for action in report.actions] == [
        (Outcome.REPAIRED, (BASE,)),
        (Outcome.REPAIRED, ()),
    ]
    with Store(sample.path) as store:
        ingest_all(store)
        assert dict(store.index.pages(Table.TENSORS)) == before
    with Store(sample.path, read_only=True) as store:
        assert check(store, data=True) == []
    assert files_of(sample.path) == good


def test_lost_attributes_are_reported(sample: Sample, good: Contents) -> None:
    """A lost attribute is named with its file; afterwards the file has the others."""
    sample.store.attributes.put(sample.text, b"user.other", b"other")
    sample.delete(Table.XATTRS, named_key(sample.text, b"user.note"))
    sample.store.close()
    report = repair(sample.path)
    assert report.after.findings == []
    assert report.actions[0] == Action(
        Outcome.QUARANTINED,
        f"inode {sample.text}: 1 extended attributes are lost",
        (b"/folder/text",),
    )
    with Store(sample.path) as store:
        assert list(store.attributes.names(sample.text)) == [b"user.other"]
    assert files_of(sample.path) == good
