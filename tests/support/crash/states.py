"""The states that a crash may leave of a recorded store, and a check of each.

`crashes` replays the recorded operations on a model of the disk, and yields the states that the
disk may have at each fsync. `check_recovered` opens a store in such a state and checks it.
`power_lost` and `killed` continue to work after a crash, until the next one.
"""

import copy
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import pytest

from modelfs.jobs.check.fsck import check
from modelfs.store import recovery
from modelfs.store.files import map_edits
from modelfs.store.index.tables import ROOT
from modelfs.store.packs import pack
from modelfs.store.store import Store
from tests.support.crash.disk_model import (
    Chance,
    Disk,
    Luck,
    Operation,
    Sync,
    Tree,
    everything,
    nothing_more,
    write_tree,
)
from tests.support.crash.histories import File
from tests.support.crash.workload import Promise, Work
from tests.support.run_jobs import collect, ingest_all, optimize
from tests.support.stores import (
    check_closed,
    content_of,
    model_of,
    new_store,
    noise,
    small_windows,
    tensors_of,
)

# Bytes: a file of a few chunks has several windows, and a store of a few files several packs.
WINDOW: Final = 8192
PACK: Final = 64 << 10

NAMES: Final = (b"a", b"b")
# Few places and few contents: bugs show at edges and in equal chunks.
EDGES: Final = (0, 100, 4095, 8192, 10_000, 20_000)
SIZES: Final = (100, 4096, 9000, 24_576)
MODELS: Final = (
    model_of(noise(5000, 1), noise(300, 2), noise(9000, 3)),
    model_of(noise(9000, 3), noise(20, 4), noise(5000, 1), note="n" * 5000),
    model_of(noise(24_576, 5)),
)


def _family() -> Iterator[bytes]:
    """Yield a model, one tuned from it with transposed tensors, and a rounded one."""
    random = np.random.default_rng(1)
    # Tensors of 16 KiB and more have a sketch.
    base = random.normal(0, 0.05, (80, 60)).astype(np.float32)
    tuned = base + random.normal(0, 0.0001, (80, 60)).astype(np.float32)
    bits = base.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # ties to even
    yield tensors_of({"w": ("F32", (80, 60), base.tobytes())})
    yield tensors_of(
        {"w": ("F32", (80, 60), tuned.tobytes()), "t": ("F32", (60, 80), base.T.tobytes())}
    )
    yield tensors_of({"w": ("BF16", (80, 60), rounded.tobytes())})


FAMILY: Final = tuple(_family())


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Create a folder in memory, if possible: syncs cost nothing there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def small_units(patch: pytest.MonkeyPatch) -> None:
    """Make windows, packs and slices small, so that little work needs many."""
    small_windows(patch, WINDOW)
    patch.setattr(map_edits, "EDIT_SLICE", 2)
    for module in (pack, recovery):
        patch.setattr(module, "PACK_SIZE", PACK)


@dataclass(frozen=True, slots=True)
class Crash:
    """The contents of a disk after some of the recorded operations."""

    after: int
    tree: Tree
    promise: Promise
    kind: str = "power loss"


def crashes(work: Work, random: Random, draws: int) -> Iterator[Crash]:
    """Yield the states of the disk that are possible before and after each fsync, each once.

    Args:
        work: the recorded work.
        random: chooses the surviving operations.
        draws: number of such choices, besides none and all operations.
    """
    seen: set[tuple[int, int]] = set()
    for after, tree in states(work.disk, work.recorder.operations, random, draws):
        promise = work.promise_after(after)
        key = id(promise), hash(frozenset(tree.items()))
        if key not in seen:
            seen.add(key)
            yield Crash(after, tree, promise)


def states(
    before: Disk, operations: Sequence[Operation], random: Random, draws: int
) -> Iterator[tuple[int, Tree]]:
    """Yield the same for any operations, with the number of operations done."""
    disk = copy.deepcopy(before)
    for after, operation in enumerate([*operations, None]):
        last = operations[after - 1] if after else None
        if operation is None or isinstance(operation, Sync) or isinstance(last, Sync):
            lucks: list[Luck] = [nothing_more, everything, *(Chance(random) for _ in range(draws))]
            yield from ((after, disk.tree(luck)) for luck in lucks)
        if operation is not None:
            disk.apply(operation)


def check_recovered(crash: Crash, folder: Path) -> None:
    """Assert that a store opens after a crash, is sound, keeps its promises, and works."""
    put_back(crash.tree, folder)
    assert check_closed(folder) == []
    with Store(folder) as store:
        found = contents_of(store)
        crash.promise.check(found)
        ingest_all(store)
        optimize(store)
        collect(store)
        assert check(store, data=True) == []
        assert contents_of(store) == found
    with Store(folder) as store:
        assert contents_of(store) == found


def put_back(tree: Tree, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_tree(tree, folder)


def contents_of(store: Store) -> dict[bytes, bytes]:
    """Return the content of every file in a store's root."""
    entries = store.dentries.listing(ROOT, 0, 1 << 30)
    return {name: content_of(store, inode) for _, name, inode in entries}


# -- further work after a crash


def power_lost(crash: Crash, folder: Path) -> Work:
    """Return new work on the contents after a power loss: all of them are durable."""
    put_back(crash.tree, folder)
    with Store(folder, read_only=True) as store:
        names = {
            name: (File(store.namespace.lookup(ROOT, name), [content]), 0)
            for name, content in contents_of(store).items()
        }
    return Work(folder, (names,))


def killed(work: Work, after: int, folder: Path) -> Work:
    """Return new work in `folder`, after a process was killed at operation `after`.

    All of its writes are there, but not all of them are durable.
    """
    disk = copy.deepcopy(work.disk)
    for operation in work.recorder.operations[:after]:
        disk.apply(operation)
    put_back(disk.tree(everything), folder)
    with Store(folder, read_only=True) as store:
        found = contents_of(store)
        inodes = {name: store.namespace.lookup(ROOT, name) for name in found}
    before = work.promise_after(after)
    before.check(found)
    files = {
        file: dataclasses.replace(file, states=file.states[:count])
        for file, count in before.written.items()
    }
    # The present contents are those of one of the commits, or newer, and come last. Two commits may
    # differ only in the identity of their files.
    ordered = sorted(
        before.commits,
        key=lambda names: (
            before.why_not(names, found) is None
            and {name: file.inode for name, (file, _) in names.items()} == inodes
        ),
    )
    commits = tuple(
        {name: (files[file], durable) for name, (file, durable) in names.items()}
        for names in ordered
    )
    for name, (file, durable) in commits[-1].items():
        file.flushed = durable
        file.states.append(found[name])
    return Work(folder, commits, disk)


# -- random work


def crashes_at_random(seed: int, folder: Path, states: int) -> Iterator[Crash]:
    """Yield crashes of random work, and of further work after each kind of crash.

    The folder must be empty; the work is done there.
    """
    random = Random(seed)
    work = Work(new_store(folder))
    with work.recorded():
        work_at_random(work, random, steps=20)
    found = some(work, random, states, "power loss")
    yield from found
    again = power_lost(random.choice(found), folder / "again")
    with again.recorded():
        work_at_random(again, random, steps=4)
    yield from some(again, random, states, "power loss twice")
    again = killed(work, random.randrange(len(work.recorder.operations)), folder / "again")
    with again.recorded():
        for name in again.files:
            again.fsync(name)
        work_at_random(again, random, steps=2)
    yield from some(again, random, states, "kill, then power loss")


def some(work: Work, random: Random, states: int, kind: str) -> list[Crash]:
    """Return up to `states` crashes of the recorded work, chosen at random."""
    found = [dataclasses.replace(each, kind=kind) for each in crashes(work, random, draws=3)]
    return random.sample(found, min(states, len(found)))


def work_at_random(work: Work, random: Random, steps: int) -> None:
    """Do anything to a store, in any order, and inside the daemon's long operations."""
    work.meanwhile = lambda: _interrupt(work, random)
    for _ in range(steps):
        name = random.choice(NAMES)
        if name not in work.files:
            work.create(name)
        elif random.random() < 0.45:
            _change(work, name, random)
        else:
            _keep(work, name, random)
    work.commit()


def _interrupt(work: Work, random: Random) -> None:
    for _ in range(random.choice((0, 0, 1, 2))):
        name = random.choice(NAMES)
        if name not in work.files:
            work.create(name)
        elif random.random() < 0.7:
            _change(work, name, random)
        elif work.is_committing:
            work.flush(name)
        else:
            work.commit()


def _change(work: Work, name: bytes, random: Random) -> None:
    match random.randrange(10):
        case 0 | 1:
            data = noise(random.choice(SIZES), random.randrange(4))
            work.write(name, random.choice(EDGES), data)
        case 2:
            work.truncate(name, random.choice(EDGES))
        case 3 | 4:
            work.truncate(name, 0)
            work.write(name, 0, random.choice(MODELS + FAMILY))
        case 5:
            work.punch(name, *sorted(random.choices(EDGES, k=2)))
        case 6 | 7:
            _clone(work, name, random)
        case 8 if b"new" not in work.files:
            work.save_over(name, random.choice(MODELS + FAMILY))
        case _:
            work.unlink(name, is_open=random.random() >= 0.7)


def _clone(work: Work, name: bytes, random: Random) -> None:
    source = random.choice([*work.files])
    start, at, size = random.choice(EDGES), random.choice(EDGES), random.choice(SIZES)
    if source == name:
        size = min(size, abs(start - at))
    work.clone(source, start, name, at, size)


def _keep(work: Work, name: bytes, random: Random) -> None:
    match random.randrange(9):
        case 0 | 1:
            work.fsync(name)
        case 2:
            work.flush(name)
        case 3 | 4:
            work.ingest(name, complete=random.random() < 0.7)
        case 5:
            work.give_up(name)
        case _:
            _keep_all(work, random)


def _keep_all(work: Work, random: Random) -> None:
    step = random.choice((work.commit, work.collect, work.reopen, work.optimize))
    step()
