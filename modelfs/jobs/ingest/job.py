"""Ingesting, as jobs.

Files are ingested in *rounds*: some files together share a writer of chunks, and one flush of the
packs for each step of theirs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from modelfs.errors import ModelfsError
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Step
from modelfs.jobs.ingest.worker import Worker
from modelfs.jobs.steps import Commit, Job, Pause, Work, pausing
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

# Files ingested together share one flush of the packs. Not more, since what is planned for each is
# in memory: some 700 bytes for a tensor, of which 16 MiB may have 100,000.
ROUND_FILES: Final = 256
ROUND_BYTES: Final = 16 << 20

Failures = dict[InodeNumber, ModelfsError | OSError]


def round_of(store: Store, inodes: Sequence[InodeNumber]) -> Sequence[InodeNumber]:
    """Return as many of the first files as are ingested together."""
    size = 0
    for count, inode in enumerate(inodes[:ROUND_FILES], 1):
        staged = store.staging.find(inode)
        size += 0 if staged is None else staged.staged_bytes
        if size > ROUND_BYTES:
            return inodes[:count]
    return inodes[:ROUND_FILES]


class Ingest:
    """Takes staged content of a store into chunks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._applier = Applier(store)
        self._worker = Worker(store)
        # Files of which a partial pass could not recognise the format. Others may remove them.
        self.unrecognised: set[InodeNumber] = set()

    def ingest(
        self,
        inodes: Sequence[InodeNumber],
        *,
        complete: bool = True,
        done: Callable[[], None] | None = None,
    ) -> Job[None]:
        """Ingest a round of files.

        Nobody else may append to packs meanwhile, nor remove these files.

        Args:
            inodes: the files. What they have not staged, or lost, is passed over.
            complete: the files are not being written, so that their layouts are final.
            done: called after each file.

        Raises:
            StoreFull: no room; what is not in chunks is still staged.
            OSError: the disk failed; the same.
        """
        passes: list[Pass] = []
        for inode in inodes:
            yield Pause()
            if (begun := (yield from self._begin(inode, complete=complete))) is not None:
                passes.append(begun)
        while passes:
            steps, ended = yield from self._plan(passes)
            steps = yield from self._do(steps)
            for file_pass in ended:
                yield from self._end(file_pass)
                if done is not None:
                    done()
                yield Pause()
            passes = [step.file_pass for step in steps if not step.file_pass.done]

    def ingest_apart(
        self, inodes: Sequence[InodeNumber], *, done: Callable[[], None] | None = None
    ) -> Job[Failures]:
        """Ingest a round of files, each alone if it fails for all; returns what failed, and why."""
        try:
            yield from self.ingest(inodes, done=done)
        except (ModelfsError, OSError) as exc:
            if len(inodes) == 1:
                return {inodes[0]: exc}
        else:
            return {}
        failures: Failures = {}
        for inode in inodes:
            failures |= yield from self.ingest_apart([inode], done=done)
        return failures

    def _begin(self, inode: InodeNumber, *, complete: bool) -> Job[Pass | None]:
        staged = self._store.staging.find(inode)
        if self._store.inodes.find(inode) is None or (staged is not None and staged.failed):
            return None
        yield from pausing(self._store.flusher.trim(inode))
        return self._applier.begin_pass(inode, complete=complete)

    def _plan(self, passes: Sequence[Pass]) -> Job[tuple[list[Step], list[Pass]]]:
        """Return the next step of each pass, and the passes that are at their end."""
        steps: list[Step] = []
        ended: list[Pass] = []
        for file_pass in passes:
            yield Pause()
            if (step := self._applier.next_step(file_pass)) is None:
                ended.append(file_pass)
            else:
                steps.append(step)
        return steps, ended

    def _do(self, steps: list[Step]) -> Job[list[Step]]:
        """Do steps together, and return those that were done."""
        if not steps:
            return []
        done: list[Step]
        with self._store.writing() as writer:
            done, written = yield Work(partial(self._worker.work, steps, writer))
        yield from pausing(self._store.publish(written))
        inodes = {step.file_pass.inode for step in steps}
        self.unrecognised |= inodes - {step.file_pass.inode for step in done}
        for step in done:
            yield from pausing(self._applier.apply(step))
            yield Pause()
        return done

    def _end(self, file_pass: Pass) -> Job[None]:
        inode = file_pass.inode
        if file_pass.layout is None and self._store.inodes.find(inode) is not None:
            frozen = self._store.contents.snapshot(inode)
            yield Work(partial(self._worker.plan_empty, file_pass, frozen))
        yield from pausing(self._applier.apply_rows(file_pass))
        self._applier.end_pass(file_pass)


def ingest_all(store: Store) -> Job[None]:
    """Take everything staged into chunks, and commit. What cannot be stays staged.

    Raises:
        StoreFull, OSError: of the first file that failed; it is done for all others.
    """
    ingest = Ingest(store)
    failures: Failures = {}
    before: Sequence[InodeNumber] = []
    while (pending := store.pending()) != before:
        before = rest = pending
        failures.clear()
        while rest:
            inodes = round_of(store, rest)
            rest = rest[len(inodes) :]
            failures |= yield from ingest.ingest_apart(inodes)
    yield Commit()
    for failure in failures.values():
        raise failure
