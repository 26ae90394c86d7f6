"""Work on a recorded store, with a note of every promise and its time."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.disk.calls import Call, Calls, drive
from modelfs.store.files.staging import Staging
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.crash.disk_model import Disk
from tests.support.crash.histories import File, check_mixed
from tests.support.crash.recorder import Recorder
from tests.support.run_jobs import collect, defragment, drain, ingest_file, optimize
from tests.support.stores import new_file

P = ParamSpec("P")
R = TypeVar("R")
Names = dict[bytes, tuple[File, int]]  # each name's file, and the durable one of its states


@dataclass(frozen=True, slots=True)
class Promise:
    """The states that a crash may leave: one of some commits, with its contents or newer."""

    commits: tuple[Names, ...]
    written: dict[File, int]  # the number of states of each file

    def check(self, found: dict[bytes, bytes]) -> None:
        """Assert that a crash may leave these names and contents."""
        wrong = [self.why_not(names, found) for names in self.commits]
        assert None in wrong, "; or ".join(str(each) for each in wrong)

    def why_not(self, names: Names, found: dict[bytes, bytes]) -> str | None:
        """Return the reason why a crash cannot leave these of a commit, None if it can."""
        if found.keys() != names.keys():
            return f"{sorted(found)} are there, and not {sorted(names)}"
        for name, (file, durable) in names.items():
            try:
                check_mixed(found[name], file.states[durable : self.written[file]])
            except AssertionError as exc:
                return f"{name!r} after {durable}: {exc}"
        return None


class Work:
    """Operations on a store that is being recorded.

    A daemon syncs files, cuts them into chunks and writes commits on other threads, and serves
    requests at the same time. So `meanwhile` runs after each of these, before the owner goes on.
    """

    store: Store  # open while recording

    def __init__(
        self, path: Path, commits: tuple[Names, ...] = ({},), disk: Disk | None = None
    ) -> None:
        """Begin with a store that is not open.

        Args:
            path: of the store.
            commits: the commits that the store may have; it has the last one.
            disk: the disk with the store, if not all of its contents are durable.
        """
        self.path = path
        self.recorder = Recorder(path, None if disk is None else disk.nodes())
        self.disk = Disk(self.recorder.before) if disk is None else disk
        self.meanwhile: Callable[[], None] = _nothing
        self.is_committing = False
        self.files = {name: file for name, (file, _) in commits[-1].items()}
        self.promises: list[tuple[int, Promise]] = []
        self._every = {file for names in commits for file, _ in names.values()}
        self._commits = commits
        self._promise(*commits)

    @contextmanager
    def recorded(self) -> Iterator["Work"]:
        """Open the store, and record everything that is done to it."""
        with self.recorder.recording(), pytest.MonkeyPatch.context() as patch:
            for part, name in ((Staging, "sync"), (Worker, "ingest_region")):
                patch.setattr(part, name, self._interrupted(getattr(part, name)))
            self._open()
            try:
                yield self
            finally:
                self.store.abandon()

    def _open(self) -> None:
        self.store = store = Store(self.path)
        # All commits, of any origin: each one changes the promises.
        vars(store)["commit_calls"] = partial(self._watched, store.commit_calls)

    def _watched(self, commit_calls: Callable[[], Calls[None]]) -> Calls[None]:
        with closing(commit_calls()) as calls:
            write = next(calls)
            self._promise(*self._commits, self._names())
            self.is_committing = True
            try:
                yield self._interrupted(partial(self._write, write))
                delete = next(calls)
            finally:
                self.is_committing = False
            yield delete

    def _write(self, write: Call) -> None:
        write()
        self._promise(self._commits[-1])

    def _names(self) -> Names:
        # The contents of a commit that begins now.
        for file in self._every:
            staged = self.store.staging.find(file.inode)
            if staged is None or not staged.dirty:
                file.flushed = len(file.states) - 1
        return {name: (file, file.flushed) for name, file in self.files.items()}

    def _interrupted(self, call: Callable[P, R]) -> Callable[P, R]:
        def interrupted(*args: P.args, **options: P.kwargs) -> R:
            result = call(*args, **options)
            meanwhile = self.meanwhile
            with self.interrupted(_nothing):
                meanwhile()
            return result

        return interrupted

    def _promise(self, *commits: Names) -> None:
        self._commits = commits
        written = {file: len(file.states) for file in self._every}
        self.promises.append((len(self.recorder.operations), Promise(commits, written)))

    @contextmanager
    def interrupted(self, meanwhile: Callable[[], None]) -> Iterator[None]:
        """Do this in the middle of each flush, each region of ingest and each commit."""
        before, self.meanwhile = self.meanwhile, meanwhile
        try:
            yield
        finally:
            self.meanwhile = before

    # -- files

    def create(self, name: bytes) -> None:
        self.files[name] = File(new_file(self.store, name))
        self._every.add(self.files[name])

    def write(self, name: bytes, offset: int, data: bytes) -> None:
        file = self.files[name]
        file.write(offset, data)
        self._promise(*self._commits)  # the new bytes may exist from now on
        self.store.writes.write(file.inode, offset, data)

    def truncate(self, name: bytes, size: int) -> None:
        file = self.files[name]
        file.truncate(size)
        self._promise(*self._commits)
        self.store.writes.truncate(file.inode, size)

    def punch(self, name: bytes, start: int, stop: int) -> None:
        """Make a range a hole; each slice is a state of the file."""
        file = self.files[name]
        while start < (end := min(stop, len(file.content))):
            end = self.store.edits.end_of_slice(file.inode, start, end)
            file.punch(start, end)
            self._promise(*self._commits)
            drain(self.store.edits.punch(file.inode, start, end))
            start = end

    def clone(self, source: bytes, start: int, target: bytes, at: int, size: int) -> None:
        """Clone a range up to the first staged byte; each slice is a state of the target."""
        copied, file = self.files[source], self.files[target]
        stop = min(start + size, len(copied.content))
        while start < stop:
            clone = self.store.clones.clone(copied.inode, start, stop, file.inode, at)
            if not (length := drive(clone, lambda _: None)):
                break
            file.write(at, copied.content[start : start + length])
            self._promise(*self._commits)  # a clone itself does nothing on the disk
            start, at = start + length, at + length

    def flush(self, name: bytes) -> None:
        file = self.files[name]
        state = len(file.states) - 1
        self.store.flush(file.inode)
        file.flushed = max(file.flushed, state)

    def fsync(self, name: bytes) -> None:
        self.flush(name)
        self.commit()

    def rename(self, old: bytes, new: bytes) -> None:
        self.files[new] = self.files.pop(old)
        victim = self.store.namespace.rename((ROOT, old), (ROOT, new))
        if victim is not None:
            self._remove_orphan(victim)

    def save_over(self, name: bytes, data: bytes) -> None:
        """Write a new file and rename it over another: flushed first, committed later."""
        self.create(b"new")
        self.write(b"new", 0, data)
        self.flush(b"new")
        self.rename(b"new", name)

    def unlink(self, name: bytes, *, is_open: bool = False) -> None:
        """Remove a file, or only its name if it is open."""
        del self.files[name]
        inode = self.store.namespace.unlink(ROOT, name)
        if not is_open:
            self._remove_orphan(inode)

    def _remove_orphan(self, inode: InodeNumber) -> None:
        drain(self.store.orphans.remove(inode))

    def ingest(self, name: bytes, *, complete: bool = True) -> None:
        ingest_file(self.store, self.files[name].inode, complete=complete)

    def give_up(self, name: bytes) -> None:
        """Begin to ingest a file, and abandon that when its chunks are in packs."""
        applier = Applier(self.store)
        file_pass = applier.begin_pass(self.files[name].inode, complete=True)
        if (region := applier.next_region(file_pass)) is not None:
            Worker(self.store).work([region], self.store.writer())
            self.store.roll_back_writer()

    # -- the whole store

    def commit(self) -> None:
        if self.store.index.dirty:
            self.store.commit()
        else:
            self._promise(self._names())  # its present content is durable

    def collect(self) -> int:
        return collect(self.store)

    def optimize(self) -> None:
        optimize(self.store)
        self.commit()

    def defragment(self) -> None:
        """Bring the chunks of scattered files together."""
        defragment(self.store)

    def reopen(self) -> None:
        """Close the store in an orderly way and open it again."""
        with self.interrupted(_nothing):
            for name in self.files:
                self.flush(name)
            self.store.close()
        self._open()

    # -- promises

    def promise_after(self, operations: int) -> Promise:
        """Return the promise after a number of operations."""
        return [promise for since, promise in self.promises if since <= operations][-1]


def _nothing() -> None:
    """Do nothing."""
