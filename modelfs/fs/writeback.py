"""Writeback: when written data becomes durable, and when it becomes chunks.

Theory of operation. Requests change the store's memory; this module moves the changes on:

- *flush*: a file's staged bytes are fsynced where they are, and the index is told.
- *commit*: the index's changes become durable, every `COMMIT_SECONDS`, or because someone waits for
  an fsync. Waiters that come while a commit is under way share the next one.
- *ingest*: staged content becomes chunks, when a file was closed and quiet for `QUIET_SECONDS`, or
  while a long one is still being written.
- *reap* and *collect*: what was deleted is removed, and its room comes back.

A rename over an existing file makes a *barrier* of the file that was renamed: no commit may contain
the new name before the content under it is durable. So a commit first flushes the files at the
barrier, and from its second attempt on lets no further rename pass.

Ingest and collect append to packs, which is for one at a time: `_appending` is held by whichever
does. All else runs as it comes, since the halves that change the store run on the event loop.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from modelfs.errors import ModelfsError, StoreFull
from modelfs.fs.handles import Handles
from modelfs.fs.kernel import send_dirty_pages
from modelfs.store.gc import Garbage
from modelfs.store.ingest import Pass, Step
from modelfs.store.staging import WINDOW, StagedFile
from modelfs.store.store import Commit, Store
from modelfs.store.tables import InodeNumber, PackId
from modelfs.store.writer import ChunkWriter, Written

log = logging.getLogger(__name__)

COMMIT_SECONDS: Final = 5.0
FLUSH_SECONDS: Final = 20.0  # how long written data may wait for its flush; the promise is 30
TICK_SECONDS: Final = 0.25
QUIET_SECONDS: Final = 1.0  # clients close and open again, and rename, within moments
RETRY_SECONDS: Final = 10.0  # after an ingest or commit that failed
COLLECT_SECONDS: Final = 60.0
# A file that is still being written is ingested from this many whole windows on.
EARLY_WINDOWS: Final = 4
# Files ingested together share one flush of the packs.
ROUND_FILES: Final = 256
ROUND_BYTES: Final = 2 * WINDOW
# Past this many files waiting for ingest, whoever creates one more waits for a round of it.
PENDING_MAX: Final = 8192
THROTTLE_SECONDS: Final = 0.5
# Garbage below this is not worth rewriting packs for, nor below this part of what is stored.
GARBAGE_MIN: Final = 64 << 20
GARBAGE_PART: Final = 0.1

# How often a sync cuts the same file anew; once is usual, for a data file and its model.
SETTLE_MAX: Final = 3

T = TypeVar("T")


class Writeback:
    """Moves what was written on to the disk and into chunks."""

    def __init__(self, store: Store, handles: Handles, workers: trio.CapacityLimiter) -> None:
        self._store = store
        self._handles = handles
        self._workers = workers
        self._committing = trio.Lock()
        self._appending = trio.Lock()
        self._seals = 0
        self._barrier: set[InodeNumber] = set()
        self._gate = trio.Event()
        self._gate.set()
        self._due: dict[InodeNumber, float] = {}
        self._untold: set[InodeNumber] = set()  # not to be tried early again
        self._early: set[InodeNumber] = set()
        self._suspects: set[InodeNumber] = set()  # in a batch that failed; tried alone next time
        self._doomed: list[InodeNumber] = []
        self._holds = 0
        self._released = trio.Event()
        self._drained = trio.Event()

    # -- what requests tell

    async def before_create(self) -> None:
        """Wait a little while too many files wait for ingest."""
        if len(self._due) > PENDING_MAX:
            # Not for ever: ingest may have no room, and whoever creates may have to close first.
            with trio.move_on_after(THROTTLE_SECONDS):
                await self._drained.wait()

    async def before_rename(self) -> None:
        """Wait while a commit has a barrier to get past."""
        while not self._gate.is_set():
            await self._gate.wait()

    def replaced(self, moved: InodeNumber) -> None:
        """Note that a file was renamed over another."""
        staged = self._store.staging.find(moved)
        if staged is not None and staged.dirty:
            self._barrier.add(moved)

    def wrote(self, inode: InodeNumber, start: int, stop: int) -> None:
        """Note a write; a long file is ingested before it is closed."""
        if start // WINDOW == stop // WINDOW or inode in self._untold:
            return
        staged = self._store.staging.find(inode)
        if staged is not None and _full_windows(staged) >= EARLY_WINDOWS:
            self._early.add(inode)

    def closed(self, inode: InodeNumber) -> None:
        """Note that the last writer closed a file."""
        self._untold.discard(inode)
        if self._store.staging.find(inode) is None:
            return
        self._due[inode] = trio.current_time() + QUIET_SECONDS

    def unreachable(self, inode: InodeNumber) -> None:
        """Note that nobody can reach an inode any more."""
        self._doomed.append(inode)

    # -- durability

    async def flush(self, inode: InodeNumber) -> None:
        """Put a file's staged content where the next commit makes it durable.

        Raises:
            OSError: the backing disk failed; it is not known what is durable.
        """
        while (flush := self._store.intake.begin_flush(inode)) is not None:
            try:
                await self._run(partial(self._store.staging.sync, inode, flush.windows))
            except OSError as exc:
                self._store.intake.fail_flush(flush, exc)
                raise
            if self._store.intake.finish_flush(flush):
                return

    async def commit(self) -> None:
        """Make every change made so far durable.

        Raises:
            StoreFull: there is no room for the index; nothing is lost.
            OSError: the backing disk failed.
        """
        wanted = self._seals + 1  # the next one to be sealed has all changes made so far
        async with self._committing:
            if self._seals >= wanted or not self._store.index.dirty:
                return
            try:
                await self._pass_barrier()
                self._seals += 1
                await self._write(self._store.begin_commit())
            finally:
                self._gate.set()

    async def _pass_barrier(self) -> None:
        passed = 0
        while self._barrier:
            if passed and self._gate.is_set():
                self._gate = trio.Event()
            waiting, self._barrier = self._barrier, set()
            try:
                await self._flush_each(sorted(waiting))
            except OSError as exc:
                # One file's "old or new" is worth less than everybody's commits.
                log.error("a file that was renamed over another is not durable: %s", exc)
            except BaseException:
                self._barrier |= waiting
                raise
            passed += 1

    async def _flush_each(self, inodes: list[InodeNumber]) -> None:
        failures: list[OSError] = []
        for inode in inodes:
            try:
                await self.flush(inode)
            except OSError as exc:
                failures.append(exc)  # the others are to be durable all the same
        if failures:
            raise failures[0]

    async def _write(self, commit: Commit) -> None:
        written = False
        try:
            await self._run(lambda: self._store.write_commit(commit))
            written = True
        finally:
            self._store.end_commit(commit, written=written)
            if not written:
                self._seals -= 1
        await self._run(lambda: self._store.sweep(commit))

    async def take_mapped_pages(self, mountpoint: Path) -> None:
        """Have what was written through mappings sent here, while there is somebody to take it."""
        namespace, nodes = self._store.namespace, self._store.nodes
        named = [
            namespace.path_of(inode)
            for inode in self._handles.written()
            if (node := nodes.find(inode)) is not None and node.nlink
        ]
        # Not among the workers: it waits for them.
        await trio.to_thread.run_sync(send_dirty_pages, mountpoint, named)

    async def settle(self, progress: Callable[[int, int], Awaitable[None]] | None = None) -> None:
        """Make everything written so far durable, and take it into chunks."""
        pending = self._store.pending()
        done: set[InodeNumber] = set()
        rounds: Counter[InodeNumber] = Counter()
        while pending:
            for at in range(0, len(pending), ROUND_FILES):
                batch = pending[at : at + ROUND_FILES]
                await self.ingest(batch, complete=True)
                done.update(batch)
                if progress is not None:
                    await progress(len(done), len(done) + len(pending) - at - len(batch))
            # A model may have asked for its data file to be cut anew. What is still being
            # written to is not waited for a second time.
            again = [each for each in self._store.intake.requested() if rounds[each] < SETTLE_MAX]
            rounds.update(again)
            pending = again or [each for each in self._store.pending() if each not in done]
        await self._flush_each([staged.inode for staged in self._store.staging])
        await self.commit()

    # -- ingest

    async def ingest(self, inodes: list[InodeNumber], *, complete: bool) -> None:
        """Take the staged content of some files into chunks.

        Raises:
            StoreFull, OSError: no room, or the disk failed; all of it is still staged.
        """
        async with self._appending:
            walks = [walk for each in inodes if (walk := await self._begin(each, complete))]
            while walks:
                walks = await self._advance(walks)
                self._drained = _renewed(self._drained)

    async def _begin(self, inode: InodeNumber, complete: bool) -> Pass | None:
        staged = self._store.staging.find(inode)
        if self._store.nodes.find(inode) is None or (staged is not None and staged.failed):
            return None
        while not self._store.intake.trim(inode):
            await trio.lowlevel.checkpoint()
        return self._store.intake.begin_pass(inode, complete=complete)

    async def _advance(self, walks: list[Pass]) -> list[Pass]:
        """Do one step of each walk, and return the walks that have more to do."""
        steps: list[Step] = []
        ended: list[Pass] = []
        for walk in walks:
            step = self._store.intake.begin_step(walk)
            if step is None:
                ended.append(walk)
            else:
                steps.append(step)
        told = await self._run_steps(steps)
        for step in told:
            self._store.intake.finish_step(step)
            await trio.lowlevel.checkpoint()
        for walk in ended:
            await self._end(walk)
        return [step.walk for step in told if not step.walk.done]

    async def _run_steps(self, steps: list[Step]) -> list[Step]:
        if not steps:
            return []
        writer = self._store.writer()
        try:
            told, written = await self._run(lambda: self._work(steps, writer))
        except BaseException:
            self._store.give_up_writer()
            raise
        self._store.intake.take_written(written)
        self._untold.update(step.walk.inode for step in steps if step not in told)
        return told

    def _work(self, steps: list[Step], writer: ChunkWriter) -> tuple[list[Step], Written]:
        told = [step for step in steps if self._store.ingest.run(step, writer)]
        return told, writer.finish()

    async def _end(self, walk: Pass) -> None:
        if walk.layout is None and self._store.nodes.find(walk.inode) is not None:
            frozen = self._store.contents.snapshot(walk.inode)
            await self._run(lambda: self._store.ingest.plan_empty(walk, frozen))
        while not self._store.intake.note_tensors(walk):
            await trio.lowlevel.checkpoint()
        self._store.intake.end_pass(walk)

    # -- garbage

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep all packs as they are, for a reader in another process."""
        async with self._appending:  # a collection that is under way ends first
            self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._released = _renewed(self._released)

    async def collect(self) -> Garbage:
        """Remove dead chunks and rewrite sparse packs; return what was found.

        Raises:
            StoreFull, OSError: no room to rewrite, or the disk failed; nothing is lost.
        """
        await self._reap()
        async with self._appending_unheld():
            found = self._store.collector.survey()
            while self._store.collector.remove_dead():
                await trio.lowlevel.checkpoint()
            for pack in self._store.collector.sparse_packs():
                await self._rewrite(pack)
        await self.commit()
        return found

    @contextlib.asynccontextmanager
    async def _appending_unheld(self) -> AsyncIterator[None]:
        # Not to be waited for with the lock: ingest goes on while somebody holds the packs.
        while True:
            async with self._appending:
                if not self._holds:
                    yield
                    return
            await self._released.wait()

    async def _rewrite(self, pack: PackId) -> None:
        self._store.leave_pack(pack)
        writer = self._store.writer()

        def copy() -> Written:
            self._store.collector.copy_live(pack, writer)
            return writer.finish()

        try:
            written = await self._run(copy)
        except BaseException:
            self._store.give_up_writer()
            raise
        self._store.intake.take_written(written)
        self._store.collector.retire(pack)

    async def _reap(self) -> None:
        while self._doomed:
            inode = self._doomed.pop()
            async with self._appending:  # or ingest might put back what was just removed
                await self._reap_one(inode)

    async def _reap_one(self, inode: InodeNumber) -> None:
        self._due.pop(inode, None)
        self._suspects.discard(inode)
        self._untold.discard(inode)
        while not self._store.reaper.reap(inode):
            await trio.lowlevel.checkpoint()
        self._drained = _renewed(self._drained)

    # -- the clock

    async def run(self) -> None:
        """Do everything when it is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_regularly, COMMIT_SECONDS, self.commit)
            nursery.start_soon(_regularly, TICK_SECONDS, self._flush_old)
            nursery.start_soon(_regularly, TICK_SECONDS, self._ingest_due)
            nursery.start_soon(_regularly, TICK_SECONDS, self._reap)
            nursery.start_soon(_regularly, COLLECT_SECONDS, self._collect_much)

    def start(self) -> None:
        """Queue what an earlier run of the daemon left to do, and note that this one runs."""
        self._store.set_in_use(in_use=True)
        now = trio.current_time()
        self._due.update((inode, now) for inode in self._store.pending())
        self._doomed.extend(self._store.reaper.orphans())

    async def finish(self) -> None:
        """Make everything durable, at the end."""
        try:
            await self._flush_each([staged.inode for staged in self._store.staging])
            self._store.set_in_use(in_use=False)
        finally:
            await self.commit()

    async def _flush_old(self) -> None:
        latest = time.monotonic() - FLUSH_SECONDS
        old = [each for each in self._store.staging if each.dirty and each.dirty_since < latest]
        await self._flush_each([staged.inode for staged in old])

    async def _ingest_due(self) -> None:
        self._due.update(
            (inode, 0.0) for inode in self._store.intake.requested() if inode not in self._due
        )
        # What was opened for writing again becomes due when it is closed again.
        for inode in [each for each in self._due if self._handles.being_written(each)]:
            del self._due[inode]
        while batch := self._next_batch():
            try:
                await self.ingest(batch, complete=True)
            except Exception:
                retry = trio.current_time() + RETRY_SECONDS
                self._due.update(dict.fromkeys(batch, retry))
                self._suspects.update(batch)
                raise
            self._suspects.difference_update(batch)
        while self._early:
            await self.ingest([self._early.pop()], complete=False)

    def _next_batch(self) -> list[InodeNumber]:
        now = trio.current_time()
        batch: list[InodeNumber] = []
        size = 0
        for inode in [each for each, due in self._due.items() if due <= now]:
            if len(batch) == ROUND_FILES or size > ROUND_BYTES:
                break
            if batch and not self._suspects.isdisjoint((inode, batch[0])):
                continue
            del self._due[inode]
            batch.append(inode)
            staged = self._store.staging.find(inode)
            size += 0 if staged is None else staged.staged_bytes
        return batch

    async def _collect_much(self) -> None:
        found = self._store.collector.survey()
        stored = sum(form["stored_bytes"] for form in self._store.totals.forms().values())
        if found.dead_bytes + found.pack_bytes > max(GARBAGE_MIN, GARBAGE_PART * stored):
            await self.collect()

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._workers)


def _renewed(event: trio.Event) -> trio.Event:
    """Wake whoever waits for an event, and return the one for those who come next."""
    event.set()
    return trio.Event()


def _full_windows(staged: StagedFile) -> int:
    return sum(window.full for window in staged.windows.values())


async def _regularly(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await trio.sleep(seconds)
        try:
            await work()
        except StoreFull as exc:
            log.warning("%s: %s", work.__name__, exc)
            await trio.sleep(RETRY_SECONDS)
        except (ModelfsError, OSError) as exc:
            log.error("%s: %s", work.__name__, exc)
            await trio.sleep(RETRY_SECONDS)
        except Exception:
            # One bad file must not end the work for all others, nor the mount.
            log.exception("%s: bug", work.__name__)
            await trio.sleep(RETRY_SECONDS)
