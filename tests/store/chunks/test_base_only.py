"""Base-only chunks: which are garbage, and how much."""

from modelfs.store.index.tables import ChunkId, Table, number_key
from modelfs.store.store import Store
from tests.support.optimized_models import put, real, remove
from tests.support.run_jobs import collect, optimize
from tests.support.stores import Box


def garbage(store: Store) -> dict[ChunkId, int]:
    """Return the base-only chunks that are garbage, with the numbers of their dependants."""
    return {chunk: record.dependants for chunk, record in store.base_only.garbage()}


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
    assert len(list(store.base_only.garbage(include_kept=True))) == (
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
