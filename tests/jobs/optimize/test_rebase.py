"""Rebasing: chunks get new bases when files go."""

import numpy as np
import pytest

from modelfs.jobs.optimize import rebase
from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.store.index.tables import ROOT
from tests.support.optimized_models import f32, put, real, records, remove, weights, work_on_next
from tests.support.run_jobs import collect, drain, optimize
from tests.support.stores import Box, content_of, tensors_of


def test_bases_of_a_removed_file_are_freed(wide: Box) -> None:
    """Chunks that derived from a removed model are re-encoded, and the model's are freed."""
    for name in ("base", "finetune", "base-bf16"):
        put(wide.store, name, real(f"{name}.safetensors"))
    remove(wide.store, b"base")
    assert wide.store.statistics(0).base_only_chunks > 0
    optimize(wide.store)
    collect(wide.store)
    now = wide.store.statistics(0)
    assert now.base_only_chunks == 0
    assert now.stored_bytes < 0.9 * now.logical_bytes
    for name in ("finetune", "base-bf16"):
        inode = wide.store.namespace.lookup(ROOT, name.encode())
        assert content_of(wide.store, inode) == real(f"{name}.safetensors")


def test_dependants_of_a_removed_base_get_a_new_one(wide: Box) -> None:
    """Of several fine-tunes whose base is removed, one becomes the base of the others."""
    base = weights(0, 300, 200)
    put(wide.store, "base", tensors_of({"w": f32(base)}))
    for number in (1, 2, 3):
        tuned = base + weights(number, 300, 200) / np.float32(500)
        put(wide.store, f"tuned-{number}", tensors_of({"w": f32(tuned.astype(np.float32))}))
    remove(wide.store, b"base")
    optimize(wide.store)
    assert [record.form for record in records(wide.store)].count("delta") == 2 * 4


def test_a_base_of_many_is_kept(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base stays if its dependants would take more room without it, and is no garbage then."""
    monkeypatch.setattr(rebase, "SAMPLE", 4)
    base = weights(0, 100, 100)
    put(wide.store, "base", tensors_of({"w": f32(base)}))
    for number in range(1, 61):
        # Steps of one size: a delta to the base has one bit for each number, and one to another
        # fine-tune has two.
        step = np.random.default_rng(number).integers(0, 2, base.shape, dtype=np.uint32)
        tuned = (base.view(np.uint32) + (step << 12)).view(np.float32)
        put(wide.store, f"tuned-{number}", tensors_of({"w": f32(tuned)}))
    remove(wide.store, b"base")
    before = wide.store.statistics(0)
    assert before.base_only_chunks > 0
    optimize(wide.store)
    collect(wide.store)
    now = wide.store.statistics(0)
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
