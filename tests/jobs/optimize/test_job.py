"""Batches of the optimizer, as jobs: they may end at any step, and a later run does the rest."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from threading import enumerate as enumerate_threads
from typing import Final

import pytest

from modelfs.errors import StoreFull
from modelfs.jobs.check.fsck import check
from modelfs.jobs.drive import run
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import BatchResult
from modelfs.jobs.optimize.job import Optimizer, optimize_report
from modelfs.jobs.steps import Hold, Job, Right, Step, Work
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.disk.calls import drive
from modelfs.store.index.tables import ROOT, PackId, Table, number_of
from modelfs.store.store import Store
from tests.support.failing_steps import ALL, COMMITS, Cancelled, FailingStep
from tests.support.optimized_models import GRID, forms, real, records, remove
from tests.support.stores import Box, content_of, noise, pack_sizes, stored_file, tensors_of

BASE: Final = real("base.safetensors")
TUNED: Final = real("finetune.safetensors")
STEPS_MAX: Final = 300


@pytest.fixture
def related(wide: Box) -> Store:
    """A store with a model and its fine-tune, whose tensors are batches of their own."""
    for name, data in ((b"base", BASE), (b"tuned", TUNED)):
        stored_file(wide.store, name, data)
    return wide.store


@pytest.fixture
def optimizer(related: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Optimizer]:
    """A run of the optimizer on it."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    with closing(new_run(related)) as optimizer:
        yield optimizer


def new_run(store: Store) -> Optimizer:
    backlog = Backlog(store)
    backlog.begin()
    return Optimizer(store, backlog, threads=2)


def batches(store: Store, optimizer: Optimizer) -> list[BatchResult]:
    """Run batches until there is none."""
    results = []
    while (result := run(optimizer.optimize_batch(), store)) is not None:
        results.append(result)
        assert len(results) < 100
    return results


def are_whole(store: Store) -> bool:
    return all(
        content_of(store, store.namespace.lookup(ROOT, name)) == data
        for name, data in ((b"base", BASE), (b"tuned", TUNED))
    )


def is_optimized(store: Store) -> bool:
    """Whether all work is done, and the fine-tune is stored as deltas."""
    found = store.inventory.statistics(0).forms
    is_done = not list(store.index.pages(Table.TO_OPTIMIZE))
    return is_done and "planes" in found and found["delta"].chunks > 3


def test_batches_follow_until_there_is_none(related: Store, optimizer: Optimizer) -> None:
    """Each batch has the next tensor, files in the order of their ingest; then there is none."""
    results = batches(related, optimizer)
    inodes = [related.namespace.lookup(ROOT, name) for name in (b"base", b"tuned")]
    found = [(result.batch.inode, len(result.batch.rows)) for result in results]
    assert [each for each in found if each[1]] == [(inode, 1) for inode in inodes for _ in range(4)]
    assert not any(result.stopped or result.damaged for result in results)
    assert is_optimized(related)
    assert are_whole(related)
    assert run(optimizer.optimize_batch(), related) is None


def test_a_stopped_run_leaves_the_rest_to_the_next(
    related: Store, optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is stopped has the forms appended until then, and comes again."""
    replace = ChunkWriter.replace

    def stop_and_replace(*args: object) -> None:
        optimizer.stop()
        replace(*args)  # type: ignore[arg-type]

    was_stopped = optimizer.stopped
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 100)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "replace", stop_and_replace)
        first = run(optimizer.optimize_batch(), related)
    assert first is not None
    assert (was_stopped, first.stopped, optimizer.stopped) == (False, True, True)
    done = sum(record.optimized for record in records(related))
    assert 0 < done < len(records(related))
    assert check(related, data=True) == []
    # A run that was stopped does no more work.
    again = run(optimizer.optimize_batch(), related)
    assert again is not None
    assert again.batch == first.batch
    assert sum(record.optimized for record in records(related)) == done
    with closing(new_run(related)) as following:
        batches(related, following)
    assert is_optimized(related)
    assert are_whole(related)


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (Cancelled(), ALL),
        (StoreFull("full"), COMMITS),
        (OSError(5, "broken"), (Work,)),
    ],
    ids=["cancelled", "full", "broken"],
)
def test_a_run_that_ends_at_any_step_loses_nothing(
    related: Store,
    optimizer: Optimizer,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    kinds: tuple[type, ...],
) -> None:
    """The store is sound and its files read as before; the same run goes on with the batch."""
    monkeypatch.setattr("modelfs.store.chunks.publish.SLICE", 1)
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 3)

    for _ in runs_that_end(related, optimizer.optimize_batch, error, kinds):
        assert check(related, data=True) == []
        assert are_whole(related)
    assert is_optimized(related)
    assert are_whole(related)


def runs_that_end(
    store: Store,
    part: Callable[[], Job[BatchResult | None]],
    error: BaseException,
    kinds: tuple[type, ...],
) -> Iterator[None]:
    """Do all parts of a run that an error ends, each time a step later; yields after each error."""

    def whole_run() -> Job[None]:
        while (yield from part()) is not None:
            pass

    for number in range(STEPS_MAX):
        steps = FailingStep(store, number, error, kinds)
        if steps_end(steps, whole_run(), error):
            break
        yield
    assert 2 < number < STEPS_MAX - 1


def steps_end(steps: FailingStep, job: Job[None], error: BaseException) -> bool:
    """Whether a job ends before the step that fails."""
    try:
        steps.run(job)
    except type(error):
        assert steps.reached
        return False
    return True


def test_a_batch_without_room_is_taken_back(
    related: Store, optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`StoreFull` behind the last form leaves packs and rows as they were; the batch returns."""
    sizes, rows = pack_sizes(related), list(related.index.pages(Table.CHUNKS))
    finish = ChunkWriter.finish

    def finish_and_fail(self: ChunkWriter) -> WriteResult:
        finish(self)
        assert pack_sizes(related) != sizes
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", finish_and_fail)
        with pytest.raises(StoreFull):
            run(optimizer.optimize_batch(), related)
    assert pack_sizes(related) == sizes
    assert list(related.index.pages(Table.CHUNKS)) == rows
    results = batches(related, optimizer)
    assert len([result for result in results if result.batch.rows]) == 8
    assert is_optimized(related)
    assert are_whole(related)


def test_a_form_is_not_taken_if_its_source_went_meanwhile(
    related: Store, optimizer: Optimizer
) -> None:
    """A file that is removed while its chunks are encoded leaves no form that needs them."""
    tuned = related.namespace.lookup(ROOT, b"tuned")
    removed_before: list[int] = []

    def execute(step: Step) -> object:
        if isinstance(step, Hold):
            return drive(step.job, execute)
        result = step.call() if isinstance(step, Work) else None
        if isinstance(result, BatchResult) and result.batch.inode == tuned and not removed_before:
            removed_before.append(len(result.old_records))
            remove(related, b"base")
        return result

    while not removed_before:
        drive(optimizer.optimize_batch(), execute)
    assert removed_before[0] > 0
    assert "delta" not in forms(related)
    batches(related, optimizer)
    assert not list(related.index.pages(Table.TO_OPTIMIZE))
    assert content_of(related, tuned) == TUNED


def test_a_closed_run_has_no_threads(related: Store) -> None:
    """The threads that encode end with the run."""
    before = {*enumerate_threads()}

    def encoders() -> list[str]:
        new = {*enumerate_threads()} - before
        return [each.name for each in new if each.name.startswith("optimize")]

    with closing(new_run(related)) as optimizer:
        batches(related, optimizer)
        assert encoders() != []
    assert encoders() == []


@pytest.mark.parametrize("pinned", [False, True])
def test_empty_packs_go_unless_they_are_pinned(wide: Box, pinned: bool) -> None:
    """A pack whose chunks all have a new form elsewhere is deleted, if no reader needs it."""
    store = wide.store
    contents = [tensors_of({"w": ("F32", (64, 256), data)}) for data in (noise(GRID), bytes(GRID))]
    inodes = []
    for number, content in enumerate(contents):
        inodes.append(stored_file(store, b"%d" % number, content))
        store.packs.seal(max(store.packs.numbers()))
    # The second pack has the zeros alone: both files have the same header.
    assert store.packs.numbers() == {PackId(1), PackId(2)}
    rights: list[Right] = []

    def execute(step: Step) -> object:
        if isinstance(step, Hold):
            rights.append(step.right)
            is_left_out = pinned and step.right is Right.UNLESS_PINNED
            return None if is_left_out else drive(step.job, execute)
        return step.call() if isinstance(step, Work) else None

    with closing(new_run(store)) as optimizer:
        while drive(optimizer.optimize_batch(), execute) is not None:
            pass
    assert rights[:2] == [Right.APPEND, Right.UNLESS_PINNED]
    assert (2 in dict(store.reclaimer.packs())) is pinned
    assert [content_of(store, inode) for inode in inodes] == contents


# -- bases without a file


@pytest.fixture
def widowed(related: Store, optimizer: Optimizer) -> Store:
    """A store from which the base of the fine-tune was removed."""
    batches(related, optimizer)
    remove(related, b"base")
    assert related.inventory.statistics(0).base_only_chunks > 0
    return related


def test_bases_are_freed(widowed: Store, optimizer: Optimizer) -> None:
    """Chunks that only derived ones need are dead when these have forms without them."""
    bases = {chunk for chunk, _ in widowed.base_only.chunks(with_kept=True)}
    (step,) = [*islice(optimizer.free_bases(), 1)]
    assert isinstance(step, Hold)
    assert step.right is Right.APPEND
    result = run(optimizer.free_bases(), widowed)
    assert result is not None
    assert set(result.batch.base_only) == bases
    assert result.batch.rows == ()
    assert "delta" not in forms(widowed)
    assert widowed.inventory.statistics(0).base_only_chunks == 0
    assert {number_of(key) for key, _ in widowed.index.pages(Table.DEAD)} >= bases
    assert content_of(widowed, widowed.namespace.lookup(ROOT, b"tuned")) == TUNED
    assert run(optimizer.free_bases(), widowed) is None


def test_bases_are_freed_before_tensors(widowed: Store, optimizer: Optimizer) -> None:
    """The next batch is that of the bases, although a new file waits."""
    stored_file(widowed, b"new", tensors_of({"w": ("F32", (64, 256), noise(GRID))}))
    first = run(optimizer.optimize_batch(), widowed)
    assert first is not None
    assert first.batch.base_only
    assert all(not result.batch.base_only for result in batches(widowed, optimizer))


def test_no_bases_are_freed_without_any(related: Store, optimizer: Optimizer) -> None:
    """A store without base-only chunks has no such batch, and no tensor is encoded instead."""
    assert run(optimizer.free_bases(), related) is None
    assert not any(record.optimized for record in records(related))


@pytest.mark.parametrize(
    ("error", "kinds"),
    [(Cancelled(), ALL), (StoreFull("full"), COMMITS)],
    ids=["cancelled", "full"],
)
def test_freeing_that_ends_at_any_step_loses_nothing(
    widowed: Store,
    optimizer: Optimizer,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    kinds: tuple[type, ...],
) -> None:
    """Derived files read as before, and the bases are freed by a later job."""
    monkeypatch.setattr("modelfs.store.chunks.publish.SLICE", 1)

    for _ in runs_that_end(widowed, optimizer.free_bases, error, kinds):
        assert check(widowed, data=True) == []
        assert content_of(widowed, widowed.namespace.lookup(ROOT, b"tuned")) == TUNED
    assert widowed.inventory.statistics(0).base_only_chunks == 0


# -- the report


def test_the_report_has_both_sizes(related: Store, optimizer: Optimizer) -> None:
    """Sizes before and after the run, the damage, and the forms of the end, as JSON has them."""
    before = related.inventory.statistics(0)
    batches(related, optimizer)
    after = related.inventory.statistics(0)
    report = json.loads(json.dumps(optimize_report(before, after, 3)))
    assert report == {
        "logical_bytes": len(BASE) + len(TUNED),
        "stored_before": before.stored_bytes,
        "stored_after": after.stored_bytes,
        "damaged": 3,
        "forms": json.loads(json.dumps(after.to_dict()["forms"])),
    }
    assert report["stored_after"] < 0.8 * report["stored_before"]
    assert {"planes", "delta"} <= set(report["forms"])
