"""Taking staged content into chunks, while the files are written, cut, flushed and removed."""

import contextlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from modelfs.store.check import check
from modelfs.store.content import WritePart, write_part
from modelfs.store.ingest import Pass, Step
from modelfs.store.intake import Flush
from modelfs.store.store import Commit, Store
from modelfs.store.tables import ROOT, InodeNumber
from modelfs.store.writer import Written
from tests.store.stores import (
    Box,
    content_of,
    model_of,
    new_file,
    new_store,
    noise,
    small_windows,
)

SMALL = 8192  # bytes of a window here: files of a few chunks have several
NAMES = st.sampled_from([b"a", b"b"])
# Few places and few contents: the interesting bugs are at edges and in equal chunks.
EDGES = st.sampled_from([0, 1, 100, 4095, 4096, 8191, 8192, 10_000, 16_384, 24_576, 40_000])
SIZES = st.sampled_from([1, 100, 4096, 8192, 9000, 24_576])
SEEDS = st.integers(0, 3)
MODELS = [
    model_of(noise(5000, 1), noise(300, 2), noise(9000, 3)),
    model_of(noise(9000, 3), noise(20, 4), noise(5000, 1), note="n" * 5000),
    model_of(noise(24_576, 5)),
]
STEPS = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class File:
    """What a file's content was, state after state, and which state a crash cannot undo."""

    inode: InodeNumber
    states: list[bytes] = field(default_factory=lambda: [b""], repr=False)
    flushed: int = 0  # the state that the next commit makes durable, or a later one
    sealed: int = 0  # the same of a commit under way
    durable: int = 0

    @property
    def content(self) -> bytes:
        return self.states[-1]

    def write(self, offset: int, data: bytes) -> None:
        self.states.append(overlaid(self.content, offset, data))

    def truncate(self, size: int) -> None:
        self.states.append(self.content[:size].ljust(size, b"\0"))

    def check_recovered(self, found: bytes) -> None:
        """Assert that a crash could leave `found`: each byte as it was at some time since."""
        since = self.states[self.durable :]
        lengths = [len(each) for each in since]
        assert min(lengths) <= len(found) <= max(lengths)
        longest = max(lengths)
        states = [each.ljust(longest, b"\0") for each in since]
        for at, (byte, *were) in enumerate(zip(found, *states, strict=False)):
            assert byte in were, f"byte {at} is {byte}"


def content(size: int, seed: int) -> bytes:
    """Return one of few contents: zeros, or noise."""
    return noise(size, seed) if seed else bytes(size)


def first_difference(one: bytes, two: bytes) -> int | None:
    if one == two:
        return None
    return next(at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)


def overlaid(content: bytes, offset: int, data: bytes) -> bytes:
    longer = content.ljust(offset + len(data), b"\0")
    return longer[:offset] + data + longer[offset + len(data) :]


class Files(RuleBasedStateMachine):
    """Files of a store against bytes in memory; every operation may fall between any two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp())
        self.box = Box(new_store(self.top))
        self.files: dict[bytes, File] = {}
        self.sealed: dict[bytes, File] = {}
        self.durable: dict[bytes, File] = {}
        self.forget_halves()

    @property
    def store(self) -> Store:
        return self.box.store

    def forget_halves(self) -> None:
        self.writing: tuple[File, int, bytes, list[WritePart]] | None = None
        self.flushing: tuple[File, int, Flush] | None = None
        self.walk: Pass | None = None
        self.step: Step | None = None
        self.written: Written | None = None
        self.committing: Commit | None = None

    @initialize()
    def make(self) -> None:
        for name in (b"a", b"b"):
            self.files[name] = File(new_file(self.store, name))
        self.commit()

    # -- changing files

    def is_written(self, file: File) -> bool:
        return self.writing is not None and self.writing[0] is file

    @rule(name=NAMES, offset=EDGES, size=SIZES, seed=SEEDS)
    def write(self, name: bytes, offset: int, size: int, seed: int) -> None:
        self.put(self.files[name], offset, content(size, seed))

    @rule(name=NAMES, model=st.integers(0, len(MODELS) - 1))
    def write_model(self, name: bytes, model: int) -> None:
        self.truncate(name, 0)
        self.put(self.files[name], 0, MODELS[model])

    def put(self, file: File, offset: int, data: bytes) -> None:
        if not self.is_written(file):
            self.store.contents.write(file.inode, offset, data)
            file.write(offset, data)

    @rule(name=NAMES, size=EDGES)
    def truncate(self, name: bytes, size: int) -> None:
        file = self.files[name]
        if not self.is_written(file):
            self.store.contents.truncate(file.inode, size)
            file.truncate(size)

    @precondition(lambda self: self.writing is None)
    @rule(name=NAMES, offset=EDGES, size=SIZES, seed=SEEDS)
    def begin_write(self, name: bytes, offset: int, size: int, seed: int) -> None:
        file, data = self.files[name], content(size, seed)
        parts = self.store.contents.begin_write(file.inode, offset, memoryview(data))
        self.writing = file, offset, data, parts

    @precondition(lambda self: self.writing is not None)
    @rule()
    def end_write(self) -> None:
        assert self.writing is not None
        file, offset, data, parts = self.writing
        for part in parts:
            write_part(part)
        self.store.contents.end_write(file.inode, parts, len(data))
        file.write(offset, data)
        self.writing = None

    @rule(name=NAMES)
    def replace(self, name: bytes) -> None:
        old = self.files[name]
        if not self.is_written(old):
            self.store.namespace.unlink(ROOT, name)
            while not self.store.reaper.reap(old.inode):
                pass
            self.files[name] = File(new_file(self.store, name))

    # -- flushing and committing

    @rule(name=NAMES)
    def flush(self, name: bytes) -> None:
        file = self.files[name]
        self.store.flush(file.inode)
        file.flushed = len(file.states) - 1

    @precondition(lambda self: self.flushing is None)
    @rule(name=NAMES)
    def begin_flush(self, name: bytes) -> None:
        file = self.files[name]
        flush = self.store.intake.begin_flush(file.inode)
        if flush is not None:
            self.flushing = file, len(file.states) - 1, flush

    @precondition(lambda self: self.flushing is not None)
    @rule()
    def end_flush(self) -> None:
        assert self.flushing is not None
        file, state, flush = self.flushing
        self.flushing = None
        if self.store.nodes.find(file.inode) is None:
            return
        self.store.staging.sync(file.inode, flush.windows)
        if self.store.intake.finish_flush(flush):
            file.flushed = max(file.flushed, state)

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

    @precondition(lambda self: self.committing is None)
    @rule()
    def commit(self) -> None:
        self.seal()
        self.store.commit()
        self.sync()

    @precondition(lambda self: self.committing is None)
    @rule()
    def begin_commit(self) -> None:
        self.seal()
        self.committing = self.store.begin_commit()

    @precondition(lambda self: self.committing is not None)
    @rule(works=st.booleans())
    def end_commit(self, works: bool) -> None:
        assert self.committing is not None
        if works:
            self.store.write_commit(self.committing)
            self.sync()
        self.store.end_commit(self.committing, written=works)
        if works:
            self.store.sweep(self.committing)
        self.committing = None

    # -- ingest

    @precondition(lambda self: self.walk is None)
    @rule(name=NAMES, complete=st.booleans())
    def begin_pass(self, name: bytes, complete: bool) -> None:
        inode = self.files[name].inode
        while not self.store.intake.trim(inode):
            pass
        self.walk = self.store.intake.begin_pass(inode, complete=complete)

    @precondition(lambda self: self.walk is not None and self.step is None)
    @rule()
    def begin_step(self) -> None:
        assert self.walk is not None
        self.step = self.store.intake.begin_step(self.walk)
        if self.step is None:
            self.end_pass()

    @precondition(lambda self: self.step is not None and self.written is None)
    @rule()
    def run_step(self) -> None:
        assert self.step is not None
        writer = self.store.writer()
        told = self.store.ingest.run(self.step, writer)
        self.written = writer.finish()
        if not told:
            self.written = self.step = self.walk = None

    @precondition(lambda self: self.written is not None)
    @rule()
    def end_step(self) -> None:
        assert self.step is not None
        assert self.written is not None
        self.store.intake.take_written(self.written)
        self.store.intake.finish_step(self.step)
        if self.step.walk.done:
            self.walk = None
        self.step = self.written = None

    @precondition(lambda self: self.written is not None)
    @rule()
    def fail_step(self) -> None:
        self.store.give_up_writer()
        self.written = self.step = self.walk = None

    def end_pass(self) -> None:
        assert self.walk is not None
        inode = self.walk.inode
        if self.walk.layout is None and self.store.nodes.find(inode) is not None:
            self.store.ingest.plan_empty(self.walk, self.store.contents.snapshot(inode))
        self.store.intake.end_pass(self.walk)
        self.walk = None

    @precondition(lambda self: self.walk is None)
    @rule(name=NAMES)
    def ingest(self, name: bytes) -> None:
        self.store.ingest_file(self.files[name].inode)

    @precondition(lambda self: self.written is None)
    @rule()
    def remove_dead(self) -> None:
        self.store.collector.remove_dead()

    @precondition(lambda self: self.step is None and self.committing is None)
    @rule()
    def collect(self) -> None:
        self.seal()
        self.store.collect()
        self.sync()

    # -- opening again

    @rule()
    def crash(self) -> None:
        if self.writing is not None:
            file, offset, data, parts = self.writing
            write_part(parts[0])
            file.write(offset, data)
        self.forget_halves()
        self.box.crash()
        self.files = dict(self.durable)
        for file in self.files.values():
            found = content_of(self.store, file.inode)
            file.check_recovered(found)
            file.states = [found]
            file.flushed = file.sealed = file.durable = 0

    @precondition(lambda self: self.writing is None and self.committing is None)
    @rule()
    def reopen(self) -> None:
        self.forget_halves()
        self.box.reopen()
        self.durable = dict(self.files)
        for file in self.files.values():
            file.flushed = file.sealed = file.durable = len(file.states) - 1

    @invariant()
    def reads_what_was_written(self) -> None:
        for name, file in self.files.items():
            found = content_of(self.store, file.inode)
            if not self.is_written(file):
                assert len(found) == len(file.content), name
                assert first_difference(found, file.content) is None, name

    def teardown(self) -> None:
        if self.writing is not None:
            self.end_write()
        assert check(self.store, data=True) == []
        self.box.reopen()
        self.store.abandon()
        shutil.rmtree(self.top)


def test_files_keep_their_bytes() -> None:
    """Whatever falls between the halves of whatever, a file reads as it was written.

    After a crash it is what its last committed flush made it, or newer.
    """
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir("/"):
        small_windows(patch, SMALL)
        run_state_machine_as_test(Files, settings=STEPS)
