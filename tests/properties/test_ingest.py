"""Ingest keeps every byte while the files are written, cut, flushed and removed."""

import shutil
import tempfile
from itertools import permutations
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from modelfs.jobs.check.fsck import check
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.disk.calls import Call, Calls, run_here
from modelfs.store.files.writes import WritePart, write_part
from modelfs.store.index.tables import ROOT, ChunkId, Table, number_of
from modelfs.store.store import Store
from tests.support.crash.histories import File
from tests.support.derived_chunks import derive_if_possible
from tests.support.run_jobs import collect, drain
from tests.support.stores import (
    Box,
    content_of,
    model_of,
    new_file,
    new_store,
    noise,
    small_windows,
)

SMALL = 8192  # bytes of a window here: files of a few chunks have several
NAMES = [b"a", b"b"]
# Few places and few contents: the interesting bugs are at edges and in equal chunks.
EDGES = [0, 100, 4095, 8192, 10_000, 20_000]
SIZES = [100, 4096, 9000, 24_576]
HALVES = [
    "flush",
    "commit",
    "begin_flush",
    "end_flush",
    "begin_commit",
    "end_commit",
    "fail_commit",
    "replace",
    "remove_dead",
]
MODELS = [
    model_of(noise(5000, 1), noise(300, 2), noise(9000, 3)),
    model_of(noise(9000, 3), noise(20, 4), noise(5000, 1), note="n" * 5000),
    model_of(noise(24_576, 5)),
]
# An event that may come at any time, with its arguments.
Act = tuple[str, *tuple[int, ...]]
WRITE = (st.sampled_from(EDGES), st.sampled_from(SIZES), st.integers(0, 3))
ACTS: st.SearchStrategy[Act] = st.one_of(
    st.tuples(st.just("write"), *WRITE),
    st.tuples(st.just("truncate"), WRITE[0]),
    st.tuples(st.just("write_model"), st.integers(0, len(MODELS) - 1)),
    st.tuples(st.just("begin_write"), *WRITE),
    st.tuples(st.sampled_from(["end_write", "fsync", "crash"])),
    st.tuples(st.sampled_from(HALVES)),
)
OTHERS = st.lists(ACTS, max_size=4)
STEPS = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def content(size: int, seed: int) -> bytes:
    """Return one of few contents: zeros, or noise."""
    return noise(size, seed) if seed else bytes(size)


def first_difference(one: bytes, two: bytes) -> int | None:
    if one == two:
        return None
    return next(at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)


class Files(RuleBasedStateMachine):
    """Files of a store against bytes in memory; every operation may fall between any two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp())
        self.box = Box(new_store(self.top))
        self.files = {name: File(new_file(self.store, name)) for name in NAMES}
        self.sealed: dict[bytes, File] = {}
        self.durable: dict[bytes, File] = {}
        self.forget_halves()
        self.commit()

    @property
    def store(self) -> Store:
        return self.box.store

    def forget_halves(self) -> None:
        self.writing: tuple[File, int, bytes, list[WritePart]] | None = None
        self.flushing: tuple[File, int, Calls[None], Call] | None = None
        self.committing: tuple[Calls[None], Call] | None = None
        self.crashed = True

    # -- events

    @rule(name=st.sampled_from(NAMES), act=ACTS)
    def act(self, name: bytes, act: Act) -> None:
        """Do one thing, if it is possible now."""
        what, *arguments = act
        getattr(self, what)(self.files[name], *arguments)

    @rule(
        name=st.sampled_from(NAMES),
        complete=st.booleans(),
        gaps=st.lists(OTHERS, min_size=4, max_size=4),
        fails=st.sampled_from([False] * 9 + [True]),
    )
    def ingest(self, name: bytes, complete: bool, gaps: list[list[Act]], fails: bool) -> None:
        """Ingest a file, with other events between the parts."""
        self.crashed = False
        inode = self.files[name].inode
        drain(self.store.flusher.trim(inode))
        applier = Applier(self.store)
        file_pass = applier.begin_pass(inode, complete=complete)
        while self.meanwhile(name, gaps[0]):
            if (region := applier.next_region(file_pass)) is None:
                self.end_pass(file_pass)
                return
            if not self.meanwhile(name, gaps[1]):
                return
            if not self.run_region(region, name, gaps[2], fails):
                return
            gaps = gaps[3:] + gaps[:3]

    def meanwhile(self, name: bytes, acts: list[Act]) -> bool:
        """Do other things; return whether the store is still the same."""
        for act in acts:
            self.act(name, act)
            self.reads_what_was_written()
        return not self.crashed

    def run_region(self, region: Region, name: bytes, meanwhile: list[Act], fails: bool) -> bool:
        done, result = Worker(self.store).work([region], self.store.writer())
        if not self.meanwhile(name, meanwhile):
            return False
        if fails:
            self.store.roll_back_writer()
            return False
        drain(self.store.publish(result))
        for done_region in done:
            drain(Applier(self.store).apply(done_region))
        return bool(done) and not region.file_pass.done

    def end_pass(self, file_pass: Pass) -> None:
        inode, applier = file_pass.inode, Applier(self.store)
        if file_pass.layout is None and self.store.inodes.find(inode) is not None:
            Worker(self.store).plan_empty(file_pass, self.store.contents.snapshot(inode))
        drain(applier.apply_rows(file_pass))
        applier.end_pass(file_pass)

    @rule()
    def collect(self) -> None:
        if self.committing is None:
            self.seal()
            collect(self.store)
            self.sync()

    @rule(which=st.integers(0, 9))
    def derive(self, which: int) -> None:
        """Store some chunk as a part of another, if there are two like that."""
        chunks = [ChunkId(number_of(key)) for key, _ in self.store.index.pages(Table.CHUNKS)]
        pairs = list(permutations(chunks[:20], 2))
        for at in range(len(pairs)):
            if derive_if_possible(self.store, *pairs[(at + 7 * which) % len(pairs)]):
                return

    @rule()
    def reopen(self) -> None:
        if self.writing is None and self.committing is None:
            self.forget_halves()
            self.box.reopen()
            self.durable = dict(self.files)
            for file in self.files.values():
                file.flushed = file.sealed = file.durable = len(file.states) - 1

    # -- changing files

    def is_written(self, file: File) -> bool:
        # The kernel lets no other change of a file begin before a write has ended.
        return self.writing is not None and self.writing[0] is file

    def write(self, file: File, offset: int, size: int, seed: int) -> None:
        self.put(file, offset, content(size, seed))

    def write_model(self, file: File, model: int) -> None:
        self.truncate(file, 0)
        self.put(file, 0, MODELS[model])

    def put(self, file: File, offset: int, data: bytes) -> None:
        if not self.is_written(file):
            self.store.writes.write(file.inode, offset, data)
            file.write(offset, data)

    def truncate(self, file: File, size: int) -> None:
        if not self.is_written(file):
            self.store.writes.truncate(file.inode, size)
            file.truncate(size)

    def begin_write(self, file: File, offset: int, size: int, seed: int) -> None:
        if self.writing is None:
            data = content(size, seed)
            parts = self.store.writes.begin(file.inode, offset, memoryview(data))
            self.writing = file, offset, data, parts

    def end_write(self, _: File) -> None:
        if self.writing is not None:
            file, offset, data, parts = self.writing
            for part in parts:
                write_part(part)
            self.store.writes.end(file.inode, parts, len(data))
            file.write(offset, data)
            self.writing = None

    def replace(self, old: File) -> None:
        if not self.is_written(old):
            (name,) = (name for name, file in self.files.items() if file is old)
            self.store.namespace.unlink(ROOT, name)
            drain(self.store.orphans.remove(old.inode))
            self.files[name] = File(new_file(self.store, name))

    # -- flushing and committing

    def flush(self, file: File) -> None:
        self.store.flush(file.inode)
        file.flushed = len(file.states) - 1

    def fsync(self, file: File) -> None:
        self.flush(file)
        self.commit()

    def begin_flush(self, file: File) -> None:
        if self.flushing is None:
            self.go_on_flushing(file, self.store.flusher.flush(file.inode))

    def end_flush(self, _: File) -> None:
        if self.flushing is None:
            return
        file, state, calls, sync = self.flushing
        self.flushing = None
        sync()
        # Another event may have made the flush void: then it begins again.
        if not self.go_on_flushing(file, calls):
            file.flushed = max(file.flushed, state)

    def go_on_flushing(self, file: File, calls: Calls[None]) -> bool:
        """Continue a flush up to its next slow call; return whether there is one."""
        if (sync := next(calls, None)) is not None:
            self.flushing = file, len(file.states) - 1, calls, sync
        return sync is not None

    def seal(self) -> None:
        for file in self.files.values():
            staged = self.store.staging.find(file.inode)
            if staged is None or not staged.dirty:
                file.flushed = len(file.states) - 1
            file.sealed = file.flushed
        self.sealed = dict(self.files)

    def sync(self) -> None:
        self.durable = dict(self.sealed)
        for file in self.durable.values():
            file.durable = file.sealed

    def commit(self, _: File | None = None) -> None:
        if self.committing is None:
            self.seal()
            self.store.commit()
            self.sync()

    def begin_commit(self, _: File) -> None:
        if self.committing is None:
            self.seal()
            calls = self.store.commit_calls()
            self.committing = calls, next(calls)

    def end_commit(self, _: File) -> None:
        if self.committing is not None:
            calls, write = self.committing
            write()
            self.sync()
            run_here(calls)
            self.committing = None

    def fail_commit(self, _: File) -> None:
        if self.committing is not None:
            self.committing[0].close()
            self.committing = None

    def remove_dead(self, _: File) -> None:
        drain(self.store.reclaimer.remove_dead())

    # -- crashes

    def crash(self, _: File) -> None:
        if self.writing is not None:
            file, offset, data, parts = self.writing
            write_part(parts[0])
            file.write(offset, data)
        self.forget_halves()
        self.box.crash()
        self.files = dict(self.durable)
        for file in self.files.values():
            content = content_of(self.store, file.inode)
            file.check_recovered(content)
            file.states = [content]
            file.flushed = file.sealed = file.durable = 0

    @invariant()
    def reads_what_was_written(self) -> None:
        for name, file in self.files.items():
            content = content_of(self.store, file.inode)
            if not self.is_written(file):
                assert len(content) == len(file.content), name
                assert first_difference(content, file.content) is None, name

    def teardown(self) -> None:
        self.end_write(self.files[b"a"])
        assert check(self.store, data=True) == []
        self.box.reopen()
        self.store.abandon()
        shutil.rmtree(self.top)


def test_files_keep_their_bytes() -> None:
    """A file reads as it was written, with any events between the parts of any operation.

    After a crash it has the content of its last committed flush, or newer content.
    """
    with pytest.MonkeyPatch.context() as patch:
        small_windows(patch, SMALL)
        run_state_machine_as_test(Files, settings=STEPS)


def any_act(random: Random) -> Act:
    edge, size = random.choice(EDGES), random.choice(SIZES)
    match random.randrange(8):
        case 0 | 1:
            return "write", edge, size, random.randrange(4)
        case 2 | 3:
            return "truncate", edge
        case 4:
            return "write_model", random.randrange(len(MODELS))
        case 5:
            return "begin_write", edge, size, random.randrange(4)
        case 6:
            return (random.choice(["end_write", "fsync", "crash"]),)
        case _:
            return (random.choice(HALVES),)


def any_round(files: Files, random: Random) -> None:
    """Do one thing to a file, or ingest it with other events between the parts."""
    name = random.choice(NAMES)
    if random.random() < 0.5:
        files.act(name, any_act(random))
    elif random.random() < 0.9:
        gaps = [[any_act(random) for _ in range(random.randrange(3))] for _ in range(4)]
        fails = random.random() < 0.05
        files.ingest(name=name, complete=random.random() < 0.7, gaps=gaps, fails=fails)
    else:
        random.choice([files.collect, files.reopen])()
    files.reads_what_was_written()


@pytest.mark.parametrize("seed", range(2))
def test_files_keep_their_bytes_for_long(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for many more steps, without a search for the shortest failure."""
    small_windows(monkeypatch, SMALL)
    random = Random(seed)
    for _ in range(100):
        files = Files()
        for _ in range(40):
            any_round(files, random)
        files.teardown()
