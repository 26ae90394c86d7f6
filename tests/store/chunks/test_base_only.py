"""Base-only chunks: which are garbage, and how much."""

from modelfs.store.index.tables import ChunkId
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
    assert chunks == len(garbage(store)) == store.statistics(0).base_only_chunks
    before = store.statistics(0).stored_bytes
    optimize(store)
    collect(store)
    freed = before - store.statistics(0).stored_bytes
    assert 0.7 * freed < estimate < 1.4 * freed
    assert store.base_only.estimate() == (0, 0)


def test_a_chunk_worth_keeping_is_no_garbage(wide: Box) -> None:
    """A base that is worth keeping is no garbage until the number of its dependants changes."""
    store = removed_base(wide)
    for chunk, dependants in garbage(store).items():
        store.base_only.keep(chunk, dependants)
    assert garbage(store) == {}
    assert store.base_only.estimate() == (0, 0)
    optimize(store)
    assert store.statistics(0).base_only_chunks > 0


def test_other_dependants_are_another_matter(wide: Box) -> None:
    """A base that was worth keeping for more dependants is garbage again."""
    store = removed_base(wide)
    for chunk, dependants in garbage(store).items():
        store.base_only.keep(chunk, dependants + 1)
    assert garbage(store)
