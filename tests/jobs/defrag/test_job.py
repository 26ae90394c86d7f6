"""Defragmentation of a store, as a whole."""

from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save

from modelfs.errors import StoreFull
from modelfs.jobs.defrag import order as order_module
from modelfs.jobs.defrag.job import DefragRun
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.drive import run
from modelfs.jobs.gc.job import collect as collect_job
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.store.index.tables import PackId, Table
from modelfs.store.store import Store
from tests.support.crash.states import contents_of
from tests.support.run_jobs import collect, collector_of, defragment, optimize, optimize_batches
from tests.support.scattered_files import CHUNKS, FILES, content, packs_of, runs, scatter
from tests.support.served_store import Failing
from tests.support.stores import CHUNK, Box, content_of, stored_file


def test_scattered_files_are_brought_together(box: Box) -> None:
    """After defragmentation each file has one run, the same content, and takes no more room."""
    inodes = scatter(box.store)
    stored = box.store.inventory.statistics().stored_bytes
    assert runs(box.store, inodes) == [CHUNKS] * FILES
    defragment(box.store)
    store = box.crash()
    assert runs(store, inodes) == [1] * FILES
    assert [content_of(store, inode) for inode in inodes] == [content(n) for n in range(FILES)]
    assert store.inventory.statistics().stored_bytes == stored
    assert store.packs.numbers() == {PackId(2)}, "the pack that became empty is gone"


def test_a_store_in_order_is_left_alone(opened: Store) -> None:
    """A second defragmentation copies nothing, nor does one after gc."""
    scatter(opened)
    optimize(opened)
    before = packs_of(opened)
    progress: list[tuple[int, int]] = []
    defragment(opened, lambda *done: progress.append(done))
    collect(opened)
    defragment(opened, lambda *done: progress.append(done))
    assert not progress
    assert packs_of(opened) == before


@pytest.mark.usefixtures("portions")
def test_a_stopped_defragmentation_goes_on(box: Box) -> None:
    """Portions copied before a stop are kept, and the next run copies the rest."""
    inodes = scatter(box.store)

    def stop(done: int, _: int) -> None:
        if done > FILES * CHUNKS * CHUNK // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        defragment(box.store, stop)
    store = box.crash()
    halfway = runs(store, inodes)
    assert halfway[0] == 1
    assert halfway[-1] == CHUNKS
    sizes: list[int] = []
    defragment(store, lambda _, size: sizes.append(size))
    assert sizes[0] < 0.6 * FILES * CHUNKS * CHUNK
    assert [each for each in runs(store, inodes) if each > 1 + order_module.RUNS_MORE] == []
    assert contents_of(store) == {b"%d" % n: content(n) for n in range(FILES)}


@pytest.mark.usefixtures("portions")
@pytest.mark.parametrize("error", [StoreFull("full"), KeyboardInterrupt()], ids=repr)
def test_a_portion_that_failed_is_the_next_one(
    box: Box, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A run that goes on after an exception copies all portions."""
    inodes = scatter(box.store)
    monkeypatch.setattr(Defragmenter, "copy", Failing(Defragmenter.copy, error, 2))
    defrag = DefragRun(box.store, partial(collect_job, box.store, collector_of(box.store)))
    assert run(defrag.copy_next(), box.store)
    with pytest.raises(type(error)):
        run(defrag.copy_next(), box.store)
    while run(defrag.copy_next(), box.store):
        pass
    assert defrag.done == defrag.total
    assert runs(box.store, inodes) == [1] * FILES


@pytest.mark.usefixtures("portions")
def test_derived_chunks_keep_their_sources(opened: Store) -> None:
    """A file of casts is copied with its sources, and reads the same."""
    rng = np.random.default_rng(1)
    wide = [rng.standard_normal((8, 1024)).astype(np.float32) for _ in range(60)]
    for number in range(59, -1, -1):
        stored_file(opened, b"%d" % number, save({"w": wide[number]}))
    model = save({f"{number:02}": each.astype(np.float16) for number, each in enumerate(wide)})
    inode = stored_file(opened, b"model", model)
    optimize_batches(opened, Backlog(opened))
    sources = list(opened.index.pages(Table.SOURCES))
    assert len(sources) > 60
    assert runs(opened, [inode])[0] > 60
    defragment(opened)
    assert runs(opened, [inode])[0] < 10
    assert content_of(opened, inode) == model
    assert list(opened.index.pages(Table.SOURCES)) == sources
