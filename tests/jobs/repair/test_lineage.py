"""Repair of derived chunks: what can be derived is, what cannot is lost, and comes back."""

from collections.abc import Callable
from typing import Final

import pytest

from modelfs.errors import CorruptChunk
from modelfs.jobs.check.fsck import check, fsck
from modelfs.jobs.repair.run import repair
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ROOT, ChunkId, Table, number_key, pair_key
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, bytes_of, files_of, lost_files, mend, write_again
from tests.support.derived_chunks import chunk_at, derive
from tests.support.run_jobs import collect, ingest_file
from tests.support.sample_lineage import Kin, change, collect_plain_copies, spoil
from tests.support.sample_store import BOTTOM, HELD, LOWEST, TOP, Sample
from tests.support.stores import Box, new_file, noise, overwrite, pack_path, stored_file

Damage = Callable[[Sample, Kin], None]


# -- lineage restored from recipes


def forget_links(sample: Sample, kin: Kin) -> None:
    for table in (Table.SOURCES, Table.DEPENDANTS):
        for key, _ in list(sample.store.index.pages(table)):
            sample.delete(table, key)


def forget_one_way(sample: Sample, kin: Kin) -> None:
    sample.delete(Table.DEPENDANTS, pair_key(kin.held, kin.orphan))


def junk_links(sample: Sample, kin: Kin) -> None:
    sample.put(Table.SOURCES, pair_key(kin.orphan, kin.held), b"junk!")
    sample.put(Table.DEPENDANTS, pair_key(kin.held, kin.orphan), b"junk!")


def swap_links(sample: Sample, kin: Kin) -> None:
    lineage = sample.store.chunks.lineage
    with sample.store.index.change():
        for chunk, old, new in (
            (kin.derived, kin.bottom, kin.held),
            (kin.orphan, kin.held, kin.bottom),
        ):
            lineage.unlink(chunk, old)
            lineage.link(chunk, new)


def link_strangers(sample: Sample, kin: Kin) -> None:
    with sample.store.index.change():
        sample.store.chunks.lineage.link(kin.bottom, kin.held)
        sample.store.chunks.lineage.link(ChunkId(1000), kin.held)


def unpin(sample: Sample, kin: Kin) -> None:
    change(sample, kin.held, dependants=0)
    change(sample, kin.bottom, dependants=7)


def list_wrongly(sample: Sample, kin: Kin) -> None:
    sample.delete(Table.BASE_ONLY, number_key(kin.held))
    sample.put(Table.BASE_ONLY, number_key(kin.bottom), b"")
    sample.put(Table.DEAD, number_key(kin.held), b"")


def change_kind(sample: Sample, kin: Kin) -> None:
    change(sample, kin.derived, kind=ChunkKind.PLAIN)


def forget_source(sample: Sample, kin: Kin) -> None:
    sample.delete(Table.CHUNKS, number_key(kin.held))


def forget_derived(sample: Sample, kin: Kin) -> None:
    sample.put(Table.CHUNKS, number_key(kin.derived), b"junk!")


def spoil_proof(sample: Sample, kin: Kin) -> None:
    change(sample, kin.derived, content_checksum=1)


def spoil_segment_table(sample: Sample, kin: Kin) -> None:
    # Of the first segment; the segments behind it can still be read.
    pack = sample.store.chunks.record(kin.held).pack
    overwrite(pack_path(sample.store.packs, pack), 4096 + 24, b"damaged")


MENDABLE: Final[tuple[Damage, ...]] = (
    forget_links,
    forget_one_way,
    junk_links,
    swap_links,
    link_strangers,
    unpin,
    list_wrongly,
    change_kind,
    forget_source,
    forget_derived,
    spoil_proof,
    spoil_segment_table,
)


@pytest.mark.parametrize("old_copies", [True, False], ids=["old copies", "one copy"])
@pytest.mark.parametrize("damage", MENDABLE, ids=lambda damage: damage.__name__)
def test_lineage_is_restored_from_recipes(
    sample: Sample, kin: Kin, good: Contents, damage: Damage, *, old_copies: bool
) -> None:
    """No damage of rows costs a byte, if the packs have all; what was derived is so still."""
    if not old_copies:
        collect_plain_copies(sample)
    damage(sample, kin)
    report = mend(sample)
    assert lost_files(report) == set()
    assert files_of(sample.path) == good
    with Store(sample.path, read_only=True) as store:
        assert store.chunks.record(kin.held).base_only
        assert store.chunks.record(kin.derived).kind is ChunkKind.DERIVED
        assert store.chunks.record(kin.bottom).dependants == 1


# -- what is lost


def test_a_lost_source_hurts_what_derives_from_it(sample: Sample, kin: Kin, good: Contents) -> None:
    """Both files are named and fail to read; a good copy of the one brings both back."""
    spoil(sample, kin.bottom)
    report = mend(sample)
    assert lost_files(report) == {BOTTOM, TOP}
    messages = "".join(action.message for action in report.actions)
    assert "chunks that derive from them: 1" in messages
    found = files_of(sample.path)
    assert {path for path in good if found[path] is None} == {BOTTOM, TOP}
    with Store(sample.path, read_only=True) as store:
        after = fsck(store, data=True)
        assert store.chunks.record(kin.derived).kind is ChunkKind.DERIVED
        with pytest.raises(CorruptChunk, match=f"chunk {kin.bottom}: its bytes are lost"):
            store.chunk_reader.read_current(kin.derived)
    assert (after.lost.chunks, after.lost.bytes) == (1, len(LOWEST) + 50_000)
    assert set(after.lost.impact.files) == {BOTTOM, TOP}
    write_again(sample.path, b"copy", bytes_of(good, BOTTOM))
    assert files_of(sample.path) == {**good, b"/copy": good[BOTTOM]}


def test_a_lost_held_source_comes_back(sample: Sample, kin: Kin, good: Contents) -> None:
    """What no file has is lost to what derives from it, until somebody writes it again."""
    spoil(sample, kin.held)
    assert lost_files(mend(sample)) == {TOP}
    assert files_of(sample.path)[TOP] is None
    write_again(sample.path, b"held", HELD)
    assert files_of(sample.path) == {**good, b"/held": HELD}


def test_what_lost_its_source_is_healed_by_itself(sample: Sample, kin: Kin, good: Contents) -> None:
    """A good copy of a derived file needs no source; then nothing needs what was lost."""
    spoil(sample, kin.held)
    mend(sample)
    write_again(sample.path, b"copy", bytes_of(good, TOP))
    assert files_of(sample.path) == {**good, b"/copy": good[TOP]}
    with Store(sample.path) as store:
        collect(store)
        assert store.chunks.find(kin.held) is None
        assert check(store, data=True) == []


def test_a_lost_recipe_costs_its_file(sample: Sample, kin: Kin, good: Contents) -> None:
    """Without a recipe, or an older copy, a chunk is lost, and needs no source any more."""
    collect_plain_copies(sample)
    spoil(sample, kin.orphan)
    assert lost_files(mend(sample)) == {TOP}
    with Store(sample.path, read_only=True) as store:
        assert store.chunks.record(kin.orphan).is_lost
        assert store.chunks.lineage.sources(kin.orphan) == []
        assert not store.chunks.record(kin.held).alive
    write_again(sample.path, b"copy", bytes_of(good, TOP))
    assert files_of(sample.path)[TOP] == good[TOP]


def test_an_older_copy_is_as_good(sample: Sample, kin: Kin, good: Contents) -> None:
    """What was derived is plain again, if gc has not removed that copy yet."""
    spoil(sample, kin.derived)
    assert lost_files(mend(sample)) == set()
    assert files_of(sample.path) == good
    with Store(sample.path, read_only=True) as store:
        assert store.chunks.record(kin.derived).kind is ChunkKind.PLAIN
        assert store.chunks.record(kin.bottom).dependants == 0


def test_a_source_with_all_that_derives_from_it(sample: Sample, good: Contents) -> None:
    """A pack that comes back gives back recipes, and sources of which nothing is known any more."""
    pack = pack_path(sample.store.packs, collect_plain_copies(sample))
    away = pack.rename(sample.path / "away")
    assert TOP in lost_files(mend(sample))
    away.rename(pack)
    assert repair(sample.path, data=True).after.findings == []
    assert files_of(sample.path) == good


def test_recipes_in_a_damaged_pack_are_kept(sample: Sample, kin: Kin, good: Contents) -> None:
    """A recipe whose source is lost too is moved as it is: both come back with the source."""
    collected = collect_plain_copies(sample)
    sample.store.packs.seal(collected)
    derive(sample.store, kin.derived, (kin.bottom, 100, 50_000))
    record = sample.store.chunks.record(kin.derived)
    assert record.pack > collected
    overwrite(pack_path(sample.store.packs, record.pack), 0, b"no header")
    spoil(sample, kin.bottom)
    assert lost_files(mend(sample)) == {BOTTOM, TOP}
    with Store(sample.path, read_only=True) as store:
        now = store.chunks.record(kin.derived)
        assert (now.kind, now.pack > record.pack) == (ChunkKind.DERIVED, True)
    write_again(sample.path, b"copy", bytes_of(good, BOTTOM))
    found = files_of(sample.path)
    assert (found[TOP], found[BOTTOM]) == (good[TOP], good[BOTTOM])


# -- chains


def test_a_circle_is_cut(box: Box) -> None:
    """Of chunks that derive from each other one is lost; with a good copy, all are back."""
    whole = noise(4096)
    contents = whole, whole[2048:] + whole[:2048]
    chunks = [chunk_at(box.store, stored_file(box.store, each[:4], each)) for each in contents]
    for chunk, source in (chunks, chunks[::-1]):
        derive(box.store, chunk, (source, 2048, 2048), (source, 0, 2048))
    collect(box.store, live_min=2)
    box.store.abandon()
    report = repair(box.path)
    assert report.after.findings == []
    assert lost_files(report) == {b"/" + each[:4] for each in contents}
    box.store = Store(box.path)
    copy = new_file(box.store, b"copy", contents[0])
    ingest_file(box.store, copy)
    for each in contents:
        inode = box.store.namespace.lookup(ROOT, each[:4])
        assert box.store.contents.read(inode, 0, 4096) == each


def test_a_chain_is_shortened(box: Box) -> None:
    """What is too many steps away from stored bytes is stored plain."""
    whole = noise(4096)
    files = [stored_file(box.store, b"%d" % n, whole[: 4096 - n]) for n in range(CHAIN_MAX + 4)]
    chunks = [chunk_at(box.store, each) for each in files]
    for number in range(1, len(chunks)):
        derive(box.store, chunks[number], (chunks[number - 1], 0, 4096 - number))
    box.store.close()
    report = repair(box.path)
    assert (report.after.findings, lost_files(report)) == ([], set())
    box.store = Store(box.path)
    for number, inode in enumerate(files):
        assert box.store.contents.read(inode, 0, 4096) == whole[: 4096 - number]
