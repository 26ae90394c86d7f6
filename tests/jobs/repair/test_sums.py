"""Sums and lists that follow from other rows: after a repair every row is as it was."""

import dataclasses
from collections.abc import Callable
from typing import Final

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.rows import COUNTERS
from modelfs.jobs.repair.context import Action, RepairContext
from modelfs.jobs.repair.sums import (
    rebuild_hashes,
    recount_links,
    recount_uses,
    repair_counters,
)
from modelfs.store.index.chunk_records import UNKNOWN, ChunkKind
from modelfs.store.index.counters import (
    BASE_ONLY_CHUNKS,
    DEAD_BYTES,
    FILES,
    LOGICAL,
    NEXT_CHUNK,
    NEXT_COOKIE,
    NEXT_INODE,
    NEXT_PACK,
    SHARED,
)
from modelfs.store.index.name_records import COOKIE_END, Listed
from modelfs.store.index.tables import (
    KEPT,
    ROOT,
    ChunkId,
    InodeNumber,
    PackId,
    Table,
    number_key,
    number_of,
    pair_key,
)
from modelfs.store.store import Store
from tests.support.row_changes import mended, repaired, rows_in
from tests.support.sample_lineage import Kin, change
from tests.support.sample_store import PACK, Sample
from tests.support.stores import FOLDER, ME

USES: Final = mended("chunks whose use counts are corrected: 1")
DEAD: Final = mended("rows of the chunks listed as dead corrected: 1")
BASE_ONLY: Final = mended("rows of the chunks listed as held corrected: 1")
HASHES: Final = mended("rows of hashes corrected: 1")
TOTALS: Final = "sizes and counts that `stats` shows, corrected: "

Damage = Callable[[Sample, Kin], object]


def first_dead(sample: Sample) -> bytes:
    key, _ = next(sample.store.index.pages(Table.DEAD))
    return key


def first_chunk(sample: Sample) -> ChunkId:
    """Return the first chunk of the base model, which several files have."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    assert record.refs > 1
    return chunk


def miscount(sample: Sample, *names: bytes) -> None:
    for name in names:
        sample.count(name, 99)


def node_changed(sample: Sample, inode: InodeNumber, **fields: object) -> None:
    node = sample.node(inode)
    sample.put_node(dataclasses.replace(node, **fields))  # type: ignore[arg-type]


RESTORED: Final[dict[str, tuple[Damage, list[Action]]]] = {
    "too few references": (
        lambda sample, _: change(sample, first_chunk(sample), refs=1),
        [USES],
    ),
    "too many bytes": (
        lambda sample, _: change(sample, first_chunk(sample), ref_bytes=1 << 40),
        [USES],
    ),
    "no dependants": (lambda sample, kin: change(sample, kin.bottom, dependants=0), [USES]),
    "a base that seems dead": (
        lambda sample, kin: change(sample, kin.held, dependants=0),
        [USES],
    ),
    "a dead chunk that is not listed": (
        lambda sample, _: sample.delete(Table.DEAD, first_dead(sample)),
        [DEAD],
    ),
    "a chunk in use that is listed as dead": (
        lambda sample, _: sample.put(Table.DEAD, number_key(first_chunk(sample)), b""),
        [DEAD],
    ),
    "a chunk that is none, listed as dead": (
        lambda sample, _: sample.put(Table.DEAD, number_key(999), b""),
        [DEAD],
    ),
    "a base that is not listed": (
        lambda sample, kin: sample.delete(Table.BASE_ONLY, number_key(kin.held)),
        [BASE_ONLY],
    ),
    "a chunk of a file that is listed as a base": (
        lambda sample, kin: sample.put(Table.BASE_ONLY, number_key(kin.bottom), b""),
        [BASE_ONLY],
    ),
    "a hash without a row": (
        lambda sample, _: sample.delete(
            Table.HASHES, sample.store.chunks.record(first_chunk(sample)).digest
        ),
        [HASHES],
    ),
    "a hash of another chunk": (
        lambda sample, kin: sample.put(
            Table.HASHES,
            sample.store.chunks.record(first_chunk(sample)).digest,
            number_key(kin.bottom),
        ),
        [HASHES],
    ),
    "a hash with one chunk more": (
        lambda sample, kin: sample.put(
            Table.HASHES,
            sample.store.chunks.record(kin.bottom).digest,
            number_key(kin.bottom) + number_key(kin.held),
        ),
        [HASHES],
    ),
    "a hash of no chunk": (
        lambda sample, kin: sample.put(Table.HASHES, bytes(15) + b"\7", number_key(kin.held)),
        [HASHES],
    ),
    "live bytes": (
        lambda sample, _: sample.put_row(dataclasses.replace(sample.row(), live=1)),
        [mended(f"the live bytes of pack {PACK} are corrected")],
    ),
    "totals of files": (
        lambda sample, _: miscount(sample, FILES, LOGICAL),
        [mended(TOTALS + "2")],
    ),
    "totals of chunks": (
        lambda sample, _: miscount(sample, SHARED, DEAD_BYTES, BASE_ONLY_CHUNKS),
        [mended(TOTALS + "3")],
    ),
    "the root's links": (
        lambda sample, _: node_changed(sample, ROOT, nlink=9),
        [mended("the link count and parent of inode 1 are corrected", b"/")],
    ),
    "a folder's parent": (
        lambda sample, _: node_changed(sample, sample.folder, parent=sample.text),
        [mended("the link count and parent of inode 6 are corrected", b"/folder")],
    ),
    "the parent of a file": (
        lambda sample, _: node_changed(sample, sample.text, parent=ROOT),
        [mended("the link count and parent of inode 7 are corrected", b"/folder/text")],
    ),
    "a file without links": (
        lambda sample, _: node_changed(sample, sample.text, nlink=0),
        [mended("the link count and parent of inode 7 are corrected", b"/folder/text")],
    ),
}


@pytest.mark.parametrize("name", RESTORED)
def test_every_row_is_as_it_was(sample: Sample, kin: Kin, name: str) -> None:
    """One repair for the damage, and no row of any table differs from those before it."""
    damage, actions = RESTORED[name]
    before = rows_in(sample.store)
    damage(sample, kin)
    assert rows_in(sample.store) != before
    done = repaired(sample, before)
    assert (done.actions, done.changes) == (actions, {})


# -- counters of next numbers


@pytest.mark.parametrize(
    ("counter", "table"),
    [(NEXT_INODE, Table.INODES), (NEXT_CHUNK, Table.CHUNKS), (NEXT_PACK, Table.PACKS)],
    ids=["inodes", "chunks", "packs"],
)
@pytest.mark.parametrize("behind", [1, 0])
def test_counters_are_above_all_numbers_in_use(
    context: RepairContext, sample: Sample, counter: bytes, table: Table, behind: int
) -> None:
    """The next number is the first that is not in use; a counter that is right is left alone."""
    newest = max(number_of(key) for key, _ in sample.store.index.pages(table))
    sample.store.counters.set(counter, newest + 1 - behind)
    repair_counters(context)
    assert sample.store.counters.get(counter) == newest + 1
    message = f"the counter {counter.decode()} is above all numbers in use again"
    assert context.actions == [mended(message)] * behind


@pytest.mark.parametrize("counter", [NEXT_INODE, NEXT_CHUNK, NEXT_PACK, NEXT_COOKIE])
def test_a_counter_of_zero_is_repaired(sample: Sample, counter: bytes) -> None:
    """No row but that of the counter is changed, and the next number is not in use."""
    before = rows_in(sample.store)
    sample.count(counter, 0)
    assert repaired(sample, before).changes == {}
    with Store(sample.path, read_only=True) as store:
        tables = dict(COUNTERS) | {NEXT_COOKIE: Table.LISTING}
        numbers = [number_of(key[-8:]) for key, _ in store.index.pages(tables[counter])]
        assert store.counters.get(counter) > max(numbers)


def test_without_inodes_the_number_of_the_root_is_in_use(
    context: RepairContext, sample: Sample
) -> None:
    """A repair makes the root again, so the first number of another inode is 2."""
    for key, _ in list(sample.store.index.pages(Table.INODES)):
        sample.store.index.delete(Table.INODES, key)
    sample.store.counters.set(NEXT_INODE, 0)
    repair_counters(context)
    assert sample.store.counters.get(NEXT_INODE) == ROOT + 1


@pytest.mark.parametrize("behind", [1, 0])
def test_cookies_are_above_all_cookies_in_use(
    context: RepairContext, sample: Sample, behind: int
) -> None:
    """A name that is made next has a place of its own, behind all others."""
    newest = max(number_of(key[8:]) for key, _ in sample.store.index.pages(Table.LISTING))
    sample.store.counters.set(NEXT_COOKIE, newest + 1 - behind)
    repair_counters(context)
    assert sample.store.counters.get(NEXT_COOKIE) == newest + 1
    message = "the counter of cookies is above all cookies in use again"
    assert context.actions == [mended(message)] * behind


def test_a_cookie_that_no_kernel_accepts_does_not_count(
    context: RepairContext, sample: Sample
) -> None:
    """A line at a damaged cookie, behind the last one that is permitted, moves no counter."""
    sample.store.index.put(
        Table.LISTING, pair_key(ROOT, COOKIE_END), Listed(sample.text, b"x").to_bytes()
    )
    before = sample.store.counters.get(NEXT_COOKIE)
    repair_counters(context)
    assert sample.store.counters.get(NEXT_COOKIE) == before


# -- marks and lost chunks


@pytest.mark.parametrize("damage", ["total", "dependants"])
def test_the_mark_of_a_kept_base_stays_if_its_record_was_right(
    sample: Sample, kin: Kin, damage: str
) -> None:
    """A base with another number of dependants than it seemed to have is tried once more."""
    sample.put(Table.BASE_ONLY, number_key(kin.held), KEPT)
    before = rows_in(sample.store)
    if damage == "total":
        sample.count(BASE_ONLY_CHUNKS, 99)
    else:
        change(sample, kin.held, dependants=7)
    done = repaired(sample, before)
    changed = {(Table.BASE_ONLY, number_key(kin.held)): b""}
    assert done.changes == ({} if damage == "total" else changed)


def test_a_lost_chunk_without_users_is_removed(sample: Sample, kin: Kin) -> None:
    """A record of lost bytes that no file and no chunk needs goes; one with users stays."""
    before = rows_in(sample.store)
    record = sample.store.chunks.record(kin.bottom)
    unused = dataclasses.replace(
        record, kind=ChunkKind.LOST, codec=CodecId.RAW, pack=PackId(0), offset=0, stored=0
    )
    sample.put_chunk(ChunkId(500), unused)
    sample.put(Table.HASHES, record.digest, number_key(kin.bottom) + number_key(500))
    done = repaired(sample, before)
    assert done.changes == {}


def test_a_lost_chunk_with_users_stays(context: RepairContext, sample: Sample) -> None:
    """Its uses are counted as those of others, and it is found by no hash, as that is unknown."""
    context.lose(sample.text, 0, 10)
    recount_uses(context)
    rebuild_hashes(context)
    record = sample.store.chunks.record(context.lost_chunk())
    assert (record.is_lost, record.refs, record.ref_bytes) == (True, 1, 10)
    assert sample.store.index.get(Table.HASHES, UNKNOWN) is None


def test_the_order_of_chunks_in_a_hash_row_stays(context: RepairContext, sample: Sample) -> None:
    """Any order is right, so a row with all of its chunks is not touched."""
    store = sample.store
    first, second = ChunkId(501), ChunkId(502)
    record = store.chunks.record(first_chunk(sample))
    digest = bytes(15) + b"\3"
    for chunk in (first, second):
        store.index.put(
            Table.CHUNKS,
            number_key(chunk),
            dataclasses.replace(record, digest=digest).to_bytes(),
        )
    store.index.put(Table.HASHES, digest, number_key(second) + number_key(first))
    rebuild_hashes(context)
    assert context.actions == []
    store.index.put(Table.HASHES, digest, number_key(second))
    rebuild_hashes(context)
    assert store.index.get(Table.HASHES, digest) == number_key(first) + number_key(second)
    assert context.actions == [HASHES]


# -- links


def test_links_of_nested_folders(context: RepairContext, sample: Sample) -> None:
    """A folder has two links, and one for each folder in it; a file has one for each name."""
    names = sample.store.namespace
    outer = names.create(ROOT, b"outer", FOLDER, ME).inode
    inner = names.create(outer, b"inner", FOLDER, ME).inode
    names.create(outer, b"second", FOLDER, ME)
    names.link(sample.text, inner, b"also")
    right = {inode: sample.node(inode) for inode in (ROOT, outer, inner, sample.text)}
    assert [right[inode].nlink for inode in (outer, inner, sample.text)] == [4, 2, 2]
    for node in right.values():
        context.put_node(dataclasses.replace(node, nlink=50, parent=InodeNumber(99)))
    recount_links(context)
    assert {inode: sample.node(inode) for inode in right} == right
    assert len(context.actions) == len(right)


def test_an_orphan_has_no_links(context: RepairContext, sample: Sample) -> None:
    """An inode without a name, a folder as well, has no links and no parent."""
    folder = sample.store.namespace.create(ROOT, b"gone", FOLDER, ME).inode
    sample.store.namespace.rmdir(ROOT, b"gone")
    right = {inode: sample.node(inode) for inode in (folder, sample.orphan)}
    for node in right.values():
        context.put_node(dataclasses.replace(node, nlink=3, parent=ROOT))
    recount_links(context)
    found = [sample.node(inode) for inode in right]
    assert [(node.nlink, node.parent) for node in found] == [(0, 0), (0, 0)]
