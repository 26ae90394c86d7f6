"""Rebasing: chunks get new bases when files go."""

import numpy as np
import pytest

from modelfs.jobs.optimize import rebase
from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.repair.run import repair
from modelfs.store.index.counters import BASE_ONLY_BYTES
from modelfs.store.index.tables import KEPT, ROOT, Table
from modelfs.store.store import Store
from tests.support.optimized_models import (
    f32,
    forms,
    put,
    real,
    records,
    remove,
    work_on_next,
)
from tests.support.related_tensors import weights
from tests.support.run_jobs import collect, drain, optimize
from tests.support.stores import Box, content_of, tensors_of


def test_bases_of_a_removed_file_are_freed(wide: Box) -> None:
    """A fine-tune of a removed model is stored by itself, which takes less than model and delta."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    assert wide.store.inventory.statistics(0).base_only_chunks > 0
    optimize(wide.store)
    collect(wide.store)
    now = wide.store.inventory.statistics(0)
    assert now.base_only_chunks == 0
    assert now.stored_bytes < 0.9 * now.logical_bytes
    inode = wide.store.namespace.lookup(ROOT, b"finetune")
    assert content_of(wide.store, inode) == real("finetune.safetensors")


@pytest.fixture
def kept(wide: Box) -> Box:
    """Return a store whose base-only chunks take less than their dependants would save."""
    for name in ("base", "finetune", "base-bf16"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    return wide


def test_a_base_whose_dependants_would_take_more_is_kept(kept: Box) -> None:
    """Optimize and gc never make a store larger."""
    before = kept.store.inventory.statistics(0)
    optimize(kept.store)
    collect(kept.store)
    now = kept.store.inventory.statistics(0)
    assert 0 < now.base_only_bytes <= before.base_only_bytes
    assert now.stored_bytes <= before.stored_bytes
    assert sum(pack.stop for _, pack in kept.store.reclaimer.packs()) <= before.stored_bytes * 1.05


def test_a_kept_base_is_not_tried_again(kept: Box) -> None:
    """That a base is kept is remembered in the index, and a run with `include_optimized` tries."""
    optimize(kept.store)
    collect(kept.store)
    backlog = Backlog(kept.reopen())
    assert backlog.status().base_only_chunks == 0
    assert backlog.next_batch() is None
    backlog.begin(include_optimized=True)
    batch = backlog.next_batch()
    assert batch is not None
    assert batch.base_only
    stored = kept.store.inventory.statistics(0).stored_bytes
    optimize(kept.store, include_optimized=True)
    assert kept.store.inventory.statistics(0).stored_bytes <= stored
    assert Backlog(kept.store).next_batch() is None


def test_a_kept_base_is_tried_when_its_dependants_change(kept: Box) -> None:
    """With one dependant less, the others may take less without the base."""
    optimize(kept.store)
    remove(kept.store, b"base-bf16")
    collect(kept.store)
    assert Backlog(kept.store).status().base_only_chunks > 0
    optimize(kept.store)
    collect(kept.store)
    assert kept.store.inventory.statistics(0).base_only_chunks == 0


def test_repair_leaves_kept_bases(kept: Box) -> None:
    """Repair corrects the list of base-only chunks, and not its marks."""
    optimize(kept.store)
    rows = list(kept.store.index.pages(Table.BASE_ONLY))
    assert {value for _, value in rows} == {KEPT}
    with kept.store.index.change():
        kept.store.counters.set(BASE_ONLY_BYTES, 1)
    kept.store.close()
    change = repair(kept.path).actions
    kept.store = Store(kept.path)
    assert len(change) == 1
    assert list(kept.store.index.pages(Table.BASE_ONLY)) == rows


def test_bases_with_a_common_dependant_go_together(wide: Box) -> None:
    """The chunks of a transposed tensor derive from all chunks of the other, and free them all."""
    base = weights(300, 1000, seed=0)
    put(wide.store, "base", tensors_of({"w": f32(base)}))
    put(wide.store, "turned", tensors_of({"w": f32(base.T)}))
    assert "transpose" in forms(wide.store)
    stored = wide.store.inventory.statistics(0).stored_bytes
    remove(wide.store, b"base")
    optimize(wide.store)
    collect(wide.store)
    now = wide.store.inventory.statistics(0)
    assert now.stored_bytes <= stored
    assert now.base_only_chunks in (0, now.chunks - 4)


def test_forms_beyond_the_bound_of_memory_are_encoded_again(
    wide: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group whose new forms do not fit in memory is rebased as another one."""
    monkeypatch.setattr(rebase, "MEASURED_MAX", 100)
    test_bases_of_a_removed_file_are_freed(wide)


def test_dependants_of_a_removed_base_get_a_new_one(wide: Box) -> None:
    """Of several fine-tunes whose base is removed, one becomes the base of the others."""
    base = weights(300, 200, seed=0)
    put(wide.store, "base", tensors_of({"w": f32(base)}))
    for number in (1, 2, 3):
        tuned = base + weights(300, 200, seed=number) / np.float32(500)
        put(wide.store, f"tuned-{number}", tensors_of({"w": f32(tuned.astype(np.float32))}))
    remove(wide.store, b"base")
    optimize(wide.store)
    assert [record.form for record in records(wide.store)].count("delta") == 2 * 4


def test_a_base_of_many_is_kept(wide: Box) -> None:
    """A base stays if its dependants would take more room without it, and is no garbage then."""
    base = weights(100, 100, seed=0)
    put(wide.store, "base", tensors_of({"w": f32(base)}))
    for number in range(1, 61):
        # Steps of one size: a delta to the base has one bit for each number, and one to another
        # fine-tune has two.
        step = np.random.default_rng(number).integers(0, 2, base.shape, dtype=np.uint32)
        tuned = (base.view(np.uint32) + (step << 12)).view(np.float32)
        put(wide.store, f"tuned-{number}", tensors_of({"w": f32(tuned)}))
    remove(wide.store, b"base")
    before = wide.store.inventory.statistics(0)
    assert before.base_only_chunks > 0
    optimize(wide.store)
    collect(wide.store)
    now = wide.store.inventory.statistics(0)
    assert now.base_only_chunks == before.base_only_chunks
    assert now.stored_bytes == before.stored_bytes
    assert Backlog(wide.store).next_batch() is None
    assert wide.store.base_only.estimate() == (0, 0)


def test_a_stopped_rebase_comes_again(wide: Box) -> None:
    """Base-only chunks that a stopped batch did not reach are in the next batch."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    backlog = Backlog(wide.store)
    result = work_on_next(wide.store, backlog, stopped=True)
    assert result.batch.base_only
    assert not result.old_records
    assert not result.unchanged
    drain(Applier(wide.store, backlog).apply(result))
    assert backlog.next_batch() == result.batch
