"""Power loss: every state that it may leave of a store."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

import lmdb
import pytest

from modelfs.errors import ModelfsError, NotAStore
from modelfs.jobs.defrag import order, rewrite
from modelfs.store.create import create_store
from modelfs.store.disk.calls import Calls
from modelfs.store.disk.directory import Directory
from modelfs.store.files.staging import Staging
from modelfs.store.index.tables import InodeNumber
from modelfs.store.packs.pack import Packs
from modelfs.store.store import Store
from tests.support.crash.disk_model import PAGE, Disk, Write, everything
from tests.support.crash.recorder import METAS, Recorder, tree_of
from tests.support.crash.states import (
    FAMILY,
    MODELS,
    check_recovered,
    crashes,
    crashes_at_random,
    folder_in_memory,
    killed,
    put_back,
    small_units,
    states,
)
from tests.support.crash.workload import Work
from tests.support.stores import CHUNK, check_closed, new_store, noise

DRAWS = 2


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    for name, value in (("GAP_MAX", 0), ("RUNS_MORE", 0), ("PORTION_BYTES", 4 * CHUNK)):
        monkeypatch.setattr(order, name, value)
    monkeypatch.setattr(rewrite, "ROOM_PART", 0)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder whose syncs cost nothing."""
    with folder_in_memory() as folder:
        yield folder


# -- work


def edit(work: Work) -> None:
    """Write a file, and then write over it in place."""
    work.create(b"a")
    work.write(b"a", 0, noise(20_000, 1))
    work.fsync(b"a")
    work.write(b"a", 5000, noise(3000, 2))
    work.fsync(b"a")
    work.write(b"a", 100, noise(100, 3))
    work.write(b"a", 30_000, noise(100, 3))
    work.commit()


def save(work: Work) -> None:
    """Write files and rename them over others, committed at once or later."""
    work.create(b"a")
    work.write(b"a", 0, MODELS[0])
    work.fsync(b"a")
    work.create(b"b")
    work.write(b"b", 0, MODELS[1])
    work.fsync(b"b")
    work.rename(b"b", b"a")
    work.commit()
    work.save_over(b"a", noise(9000, 1))
    work.create(b"c")
    work.commit()
    work.ingest(b"a")
    work.save_over(b"a", MODELS[2])
    work.commit()


def cut(work: Work) -> None:
    """Truncate staged and ingested files, extend them, and write behind the end."""
    work.create(b"a")
    work.write(b"a", 0, noise(24_576, 1))
    work.fsync(b"a")
    work.truncate(b"a", 10_000)
    work.truncate(b"a", 20_000)
    work.fsync(b"a")
    work.ingest(b"a")
    work.commit()
    work.truncate(b"a", 5000)
    work.write(b"a", 12_000, noise(100, 2))
    work.ingest(b"a")
    work.truncate(b"a", 0)
    work.commit()
    work.write(b"a", 0, noise(9000, 3))
    work.fsync(b"a")


def punch(work: Work) -> None:
    """Punch holes into staged and ingested files, before and after flushes and commits."""
    work.create(b"a")
    work.write(b"a", 0, noise(24_576, 1))
    work.fsync(b"a")
    work.punch(b"a", 100, 9000)
    work.commit()
    work.ingest(b"a")
    work.write(b"a", 12_000, noise(100, 2))
    work.fsync(b"a")
    work.punch(b"a", 5000, 20_000)
    work.commit()
    work.write(b"a", 15_000, noise(100, 3))
    work.fsync(b"a")
    work.truncate(b"a", 18_000)
    work.truncate(b"a", 24_576)
    with work.interrupted(partial(work.punch, b"a", 0, 4095)):
        work.commit()
        work.ingest(b"a")
    work.fsync(b"a")


def clone(work: Work) -> None:
    """Clone ranges of files, over staged and stored bytes, before and after flushes and commits."""
    for number, name in enumerate((b"a", b"b", b"c")):
        work.create(name)
        work.write(name, 0, noise(24_576, number))
    work.ingest(b"a")
    work.fsync(b"b")
    work.clone(b"a", 100, b"b", 5000, 9000)
    work.commit()
    work.fsync(b"b")
    work.create(b"d")
    work.clone(b"a", 0, b"d", 0, 24_576)
    work.commit()
    work.write(b"d", 8000, noise(100, 5))
    work.ingest(b"d")
    work.commit()
    work.truncate(b"b", 9000)
    work.clone(b"d", 0, b"b", 4095, 20_000)
    work.commit()
    with work.interrupted(partial(work.clone, b"a", 0, b"c", 12_000, 20_000)):
        work.ingest(b"c")
        work.commit()
    work.unlink(b"a")
    work.collect()
    work.fsync(b"c")


def ingest(work: Work) -> None:
    """Ingest models that share tensors, early and when they are complete."""
    for name, model in zip((b"a", b"b", b"c"), MODELS, strict=True):
        work.create(name)
        work.write(name, 0, model)
        work.ingest(name, complete=False)
    work.commit()
    work.ingest(b"a")
    work.fsync(b"b")
    work.ingest(b"b")
    work.give_up(b"c")
    work.ingest(b"c")
    work.commit()
    work.write(b"c", 9000, noise(4096, 6))
    work.ingest(b"c")
    work.reopen()


def collect(work: Work) -> None:
    """Remove files and collect: packs are rewritten and deleted."""
    for number, name in enumerate((b"a", b"b", b"c")):
        work.create(name)
        work.write(name, 0, noise(20_000, number))
        work.ingest(name)
    work.commit()
    work.unlink(b"b")
    work.unlink(b"c", is_open=True)
    work.commit()
    assert work.collect() > 0
    work.create(b"b")
    work.write(b"b", 0, noise(20_000, 1))
    work.ingest(b"b")
    work.unlink(b"a")
    work.commit()
    assert work.collect() > 0


def optimize(work: Work) -> None:
    """Optimize related models, remove the bases' files, and rebase, with the optimizer or gc."""
    for name, model in zip((b"a", b"b", b"c"), FAMILY, strict=True):
        work.create(name)
        work.write(name, 0, model)
        work.ingest(name)
        work.optimize()
    forms = work.store.inventory.statistics(0).forms
    assert forms.keys() >= {"planes", "delta", "cast", "transpose"}
    work.unlink(b"a")
    work.commit()
    work.optimize()
    work.collect()
    work.create(b"a")
    work.write(b"a", 0, FAMILY[0])
    work.ingest(b"a")
    work.optimize()
    work.collect()
    for name in (b"a", b"b"):
        work.unlink(name)
    work.commit()
    assert work.store.inventory.statistics(0).base_only_chunks > 0
    work.collect()
    assert work.store.inventory.statistics(0).base_only_chunks == 0


def bring_together(work: Work) -> None:
    """Alternate two files in packs, and bring each together, in portions."""
    work.create(b"whole")
    work.write(b"whole", 0, noise(12 * CHUNK, 1))
    work.ingest(b"whole")
    for number, name in enumerate((b"a", b"b")):
        work.create(name)
        parts = [noise(12 * CHUNK, 1)[at : at + CHUNK] for at in range(0, 12 * CHUNK, CHUNK)]
        work.write(name, 0, b"".join(parts[number::2]))
        work.ingest(name)
    work.unlink(b"whole")
    work.commit()
    before = work.store.packs.numbers()
    work.defragment()
    assert not before & work.store.packs.numbers()
    work.write(b"a", 0, noise(CHUNK, 2))
    work.ingest(b"a")
    work.commit()


def beside(work: Work) -> None:
    """Change a file in the middle of its flush, its ingest, and a commit."""
    work.create(b"a")
    work.write(b"a", 0, noise(20_000, 1))
    with work.interrupted(partial(work.write, b"a", 1000, noise(100, 2))):
        work.flush(b"a")
    work.fsync(b"a")
    work.write(b"a", 0, noise(100, 5))
    with work.interrupted(lambda: cut_durably(work, b"a")):
        work.flush(b"a")
    work.commit()
    with work.interrupted(partial(work.write, b"a", 8000, noise(4096, 3))):
        work.ingest(b"a")
        work.commit()
    work.fsync(b"a")
    with work.interrupted(partial(work.truncate, b"a", 0)):
        work.ingest(b"a")
        work.commit()
    work.write(b"a", 0, noise(9000, 4))
    with work.interrupted(partial(work.unlink, b"a")):
        work.commit()
    work.commit()


def cut_durably(work: Work, name: bytes) -> None:
    work.truncate(name, 9000)
    work.fsync(name)


WORKS = {
    work.__name__: work
    for work in (edit, save, cut, punch, clone, ingest, collect, optimize, bring_together, beside)
}


def recorded(work: Callable[[Work], None], folder: Path) -> Work:
    done = Work(new_store(folder))
    with done.recorded():
        work(done)
    return done


def broken_states(work: Work, folder: Path) -> Iterator[str]:
    for crash in crashes(work, Random(1), DRAWS):
        try:
            check_recovered(crash, folder / "recovered")
        except (AssertionError, ModelfsError, OSError) as exc:
            yield f"after {crash.after}: {type(exc).__name__} {exc}"


# -- properties


@pytest.mark.parametrize("name", WORKS)
def test_nothing_acknowledged_is_lost(name: str, memory: Path) -> None:
    """In every possible state at any fsync the store opens, is sound, and keeps its promises.

    The promises: all acknowledged fsyncs, and a replaced name is the old or the new file.
    """
    work = recorded(WORKS[name], memory)
    assert list(islice(broken_states(work, memory), 3)) == []


@pytest.mark.parametrize("seed", range(3))
def test_nothing_acknowledged_is_lost_at_random(seed: int, memory: Path) -> None:
    """The same for random work in any order, and for a second crash after another."""
    for crash in crashes_at_random(seed, memory, states=12):
        check_recovered(crash, memory / "recovered")


@pytest.mark.parametrize("name", ["edit", "collect"])
def test_what_was_seen_after_a_kill_is_durable_after_an_fsync(name: str, memory: Path) -> None:
    """Bytes that a killed process left in the kernel's cache survive every later fsync.

    And no file is deleted because of a commit that is not durable yet.
    """
    work = recorded(WORKS[name], memory)
    for after in [*unsynced_metas(work), len(work.recorder.operations)]:
        again = killed(work, after, memory / "killed")
        with again.recorded():
            for each in again.files:
                again.fsync(each)
        assert list(broken_states(again, memory)) == []


def unsynced_metas(work: Work) -> Iterator[int]:
    """Yield the operation counts at which LMDB's meta page is written but not durable."""
    index = work.disk.nodes()["index/data.mdb"]
    for after, operation in enumerate(work.recorder.operations, 1):
        match operation:
            case Write(node, offset) if node == index and offset < METAS * PAGE:
                yield after


def test_a_store_is_made_whole_or_not_at_all(memory: Path) -> None:
    """A crash during mkfs leaves no store or an empty one; after mkfs, the store exists."""
    top = memory / "top"
    top.mkdir()
    recorder = Recorder(top)
    with recorder.recording():
        create_store(top / "new", chunk_size=CHUNK)
    for after, tree in states(Disk(recorder.before), recorder.operations, Random(1), 30):
        put_back(tree, memory / "recovered")
        try:
            assert check_closed(memory / "recovered" / "new") == []
        except NotAStore:
            assert after < len(recorder.operations)


# -- mistakes that the recorder catches


def flush_late(store: Store, inode: InodeNumber) -> None:
    """Flush a file, but sync its bytes after the commit."""
    for sync in list(store.flusher.flush(inode)):
        store.commit()
        sync()


def delete_early(store: Store) -> Calls[None]:
    """Delete files before the commit that no longer mentions them."""
    sealed = store.index.seal()
    for deletes in (store.staging.deletes, store.packs.deletes):
        deletes.run(deletes.drain())
    yield sealed.write
    store.index.release()
    yield nothing


def nothing(*_: object) -> None:
    """Leave out an operation."""


def sync_all_but(name: str) -> Callable[[Directory], None]:
    """Leave out the fsync of one folder."""
    sync = Directory.sync

    def sync_others(folder: Directory) -> None:
        if folder.path.name != name:
            sync(folder)

    return sync_others


BREAKS: dict[str, tuple[object, str, object]] = {
    "packs that are not synced": (Packs, "flush", nothing),
    "names of packs that are not synced": (Directory, "sync", sync_all_but("packs")),
    "staged bytes that are not synced": (Staging, "sync", nothing),
    "names of staged files that are not synced": (Directory, "sync", sync_all_but("staging")),
    "staged bytes that are synced after the index": (Store, "flush", flush_late),
    "files that are deleted before the index says so": (Store, "commit_calls", delete_early),
    "an index that is not synced": (lmdb, "open", partial(lmdb.open, sync=False)),
    "an index whose head is not synced": (lmdb, "open", partial(lmdb.open, metasync=False)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_it_is_caught(name: str, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that leaves out one sync, or changes the order, fails in some state."""
    with monkeypatch.context() as patch:
        patch.setattr(*BREAKS[name])
        works = [recorded(work, memory) for work in WORKS.values()]
    assert any(True for work in works for _ in broken_states(work, memory))


# -- the recorder


@pytest.mark.parametrize("name", WORKS)
def test_nothing_goes_by_unrecorded(name: str, memory: Path) -> None:
    """The recorded operations yield the folder's contents."""
    work = recorded(WORKS[name], memory)
    disk = Disk(work.recorder.before)
    for operation in work.recorder.operations:
        disk.apply(operation)
    assert disk.tree(everything) == tree_of(work.path)
