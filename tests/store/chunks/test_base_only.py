"""Base-only chunks: which are garbage, and how much."""

from modelfs.store.index.tables import ChunkId, Table, number_key
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive
from tests.support.derived_chunks import remove as remove_files
from tests.support.optimized_models import put, real, remove
from tests.support.run_jobs import collect, optimize
from tests.support.stores import CHUNK, Box, noise, stored_file


def garbage(store: Store) -> dict[ChunkId, int]:
    """Return the base-only chunks that are garbage, with the numbers of their dependants."""
    bases = store.base_only.chunks(with_kept=False)
    return {chunk: record.dependants for chunk, record in bases}


def removed_base(wide: Box) -> Store:
    """A store in which a model derives from one that was removed."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    return wide.store


def test_the_estimate_is_near(wide: Box) -> None:
    """The estimate of the room that base-only chunks take is near what comes back."""
    store = removed_base(wide)
    chunks, estimate = store.base_only.estimate()
    assert chunks == len(garbage(store)) == store.inventory.statistics(0).base_only_chunks
    before = store.inventory.statistics(0).stored_bytes
    optimize(store)
    collect(store)
    freed = before - store.inventory.statistics(0).stored_bytes
    assert 0.7 * freed < estimate < 1.4 * freed
    assert store.base_only.estimate() == (0, 0)


def test_dependants_of_other_sources_count_for_themselves(opened: Store) -> None:
    """A dependant that is no delta to another one, as their sources differ, grows, too."""
    whole = noise(CHUNK), noise(CHUNK, 1)
    mixed = whole[0][: HALF // 2] + whole[1][: HALF // 2]
    contents = (*whole, whole[0][:HALF], whole[0][1 : HALF + 1], mixed)
    first, second, alone, like_it, of_both = (
        chunk_at(opened, stored_file(opened, b"%d" % number, content))
        for number, content in enumerate(contents)
    )
    derive(opened, alone, (first, 0, HALF))
    derive(opened, like_it, (first, 1, HALF))
    derive(opened, of_both, (first, 0, HALF // 2), (second, 0, HALF // 2))
    remove_files(opened, b"0", b"1")
    stored, growth, growth_of_both = (
        sum(opened.chunks.record(chunk).stored for chunk in (first, second)),
        HALF - opened.chunks.record(alone).stored,
        HALF - opened.chunks.record(of_both).stored,
    )
    assert opened.base_only.estimate() == (2, stored - growth - 2 * (growth_of_both // 2))


def keep(store: Store, *, more: int = 0) -> None:
    """Keep all base-only chunks, for as many dependants as they have, or for `more`."""
    bases = garbage(store)
    with store.index.change():
        for chunk, dependants in bases.items():
            store.chunks.keep_base(chunk, dependants + more)


def test_a_kept_chunk_is_no_garbage(wide: Box) -> None:
    """A base that is kept is no garbage, also after the store is opened again."""
    keep(removed_base(wide))
    store = wide.reopen()
    assert garbage(store) == {}
    assert store.base_only.estimate() == (0, 0)
    assert len(list(store.base_only.chunks(with_kept=True))) == (
        store.inventory.statistics(0).base_only_chunks
    )
    optimize(store)
    assert store.inventory.statistics(0).base_only_chunks > 0


def test_other_dependants_are_another_matter(wide: Box) -> None:
    """A base that was to be kept for more dependants is garbage."""
    store = removed_base(wide)
    keep(store, more=1)
    assert garbage(store)


def test_damaged_rows_do_not_end_the_estimate(wide: Box) -> None:
    """A base is not counted as a gain if a row of its dependants is damaged."""
    store = removed_base(wide)
    chunks, estimate = store.base_only.estimate()
    base = next(iter(garbage(store)))
    dependant = next(iter(store.chunks.lineage.dependants(base)))
    record = store.chunks.record(dependant)
    write_row(store, dependant, b"damaged")
    assert store.base_only.estimate()[0] == chunks
    assert store.base_only.estimate()[1] < estimate
    write_row(store, dependant, record.to_bytes())


def write_row(store: Store, chunk: ChunkId, value: bytes) -> None:
    with store.index.change():
        store.index.put(Table.CHUNKS, number_key(chunk), value)
