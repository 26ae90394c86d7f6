"""The optimizer's work on a batch: from tensors to smaller forms of their chunks. Any thread.

A tensor goes by twice: once for its sketch, by which its relatives are found, and once to try what
they propose on each of its chunks, several at a time. What is exact comes first, since it stores
next to nothing; then the smaller of a delta and of what the chunk comes to by itself.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptData
from modelfs.jobs.optimize.attempts import Attempt, Attempts
from modelfs.jobs.optimize.batch import Batch, BatchOutput, BatchResult, Target
from modelfs.jobs.optimize.encoders import rounding
from modelfs.jobs.optimize.forms import Form, is_worth, near_or_alone
from modelfs.jobs.optimize.pipeline import Pipeline
from modelfs.jobs.optimize.rebase import Rebaser
from modelfs.jobs.optimize.related_files import RelatedFiles
from modelfs.jobs.optimize.similarity import Candidate, Relation, SimilarityIndex
from modelfs.sketches.sketch import Sampler, Sketch
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.files.tensor_view import ChunkSpan, TensorView
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.records import Chunk, ChunkKind
from modelfs.store.index.tables import InodeNumber
from modelfs.store.packs.pack import eio_as_corruption
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# Chunks that are read ahead of the one that is written next, and are in memory meanwhile.
AHEAD: Final = 16
# Tensors of a file without relatives that are waited for. To wait for all of them leaves one of two
# cores idle, and hardly a file has relatives for none of its first tensors.
WAITS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How the optimizer is run."""

    depth: int  # as in `Lineage.may_derive`
    threads: int  # that encode at the same time
    include_optimized: bool  # look at chunks that are optimized already


class _Choice(NamedTuple):
    target: Target
    form: Form
    candidate: Candidate | None = None  # that it derives from


class Worker:
    """Finds the forms of a batch's chunks, for one run of the optimizer."""

    def __init__(self, store: Store, options: RunOptions) -> None:
        self._maps = store.maps
        self._chunks = store.chunks
        self._reader = store.chunk_reader
        self._similarity = SimilarityIndex(store)
        self._attempts = Attempts(store.maps, store.chunks, store.chunk_reader, options.depth)
        self._rebaser = Rebaser(store.chunks, store.chunk_reader)
        self._related_files = RelatedFiles(self._similarity, TensorTable(store.index))
        self._pipeline: Pipeline[_Choice] = Pipeline(options.threads, AHEAD)
        self._related: set[InodeNumber] = set()  # files that the family knows relatives of
        self._waits: Counter[InodeNumber] = Counter()  # for what the first tensors tell, by file
        self._include_optimized = options.include_optimized
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let `work` return soon, with what it has by then."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        self._pipeline.close()

    def work(self, batch: Batch, writer: ChunkWriter) -> BatchResult:
        """Append the smaller forms of a batch's chunks, durably.

        Raises:
            OSError: the disk is full or failed: the writer is to be given up.
        """
        output = BatchOutput(batch, writer)
        try:
            for row in batch.rows:
                self._optimize(output, TensorView(self._maps, self._reader, batch.inode, row))
            self._pipeline.drain()
        finally:
            self._pipeline.drop()
        for chunk in batch.bases:
            if self._stop.is_set():
                break
            self._rebaser.rebase(output, chunk)
        return output.finish(stopped=self._stop.is_set())

    # -- a tensor

    def _optimize(self, output: BatchOutput, view: TensorView) -> None:
        if self._stop.is_set():
            return
        try:
            self._try_forms(output, view)
        except CorruptData as exc:
            _leave(output, view, exc)
        if view.inode not in self._related and self._waits[view.inode] < WAITS_MAX:
            self._waits[view.inode] += 1
            self._pipeline.drain()  # it may tell where the file's next tensor finds its relative

    def _try_forms(self, output: BatchOutput, view: TensorView) -> None:
        sketch = self._sketch(view)
        candidates = self._candidates(view, sketch)
        targets = [each for each in self._targets(view) if output.claim(each.chunk)]
        if targets:
            exact = self._attempts.exact(view, candidates)
            with eio_as_corruption():
                base = self._attempts.nearest(view, targets, candidates)
            put = partial(self._put, output, view)
            for target in targets:
                self._pipeline.add(partial(self._choose, view, exact, base, target), put)
        if sketch is not None:
            output.sketches.append((view.inode, view.row, sketch))
        for candidate in candidates:
            if candidate.relation is Relation.WIDER and not self._stop.is_set():
                self._narrow(output, view, candidate)

    def _put(self, output: BatchOutput, view: TensorView, future: Future[_Choice]) -> None:
        try:
            choice = future.result()
        except CorruptData as exc:
            _leave(output, view, exc)
            return
        record = choice.target.record
        if not record.optimized or len(choice.form.stored) < record.stored:
            output.put(choice.target, choice.form, view.element)
        if choice.candidate is not None:
            self._related_files.accept(view.inode, choice.candidate)
            self._related.add(view.inode)

    def _sketch(self, view: TensorView) -> Sketch | None:
        sampler = Sampler(view.row.dtype, view.row.shape, view.size)
        for stretch in view.spans:
            if self._stop.is_set():
                return None
            with eio_as_corruption():
                content = self._reader.gather([stretch.run])
            sampler.feed(stretch.start, content)
        return sampler.sketch()

    def _candidates(self, view: TensorView, sketch: Sketch | None) -> list[Candidate]:
        found = self._related_files.first(view.inode, view.row, sketch)
        if sketch is not None:
            found += self._similarity.candidates(view.inode, view.row, sketch)
        # The family's come once more among the others, or are the others.
        known: dict[tuple[Relation, InodeNumber, int, int], Candidate] = {}
        for each in found:
            known.setdefault((each.relation, each.inode, each.row.start, each.shift), each)
        return list(known.values())

    def _targets(self, view: TensorView) -> Iterator[Target]:
        for stretch in view.spans:
            if (target := self._target(stretch)) is not None:
                yield target

    def _target(self, stretch: ChunkSpan) -> Target | None:
        record = self._chunks.record(stretch.run.chunk)
        if (record.optimized and not self._include_optimized) or not _may_shrink(record):
            return None
        whole = stretch.run.skip == 0 and stretch.run.length == record.size
        return Target(stretch.run.chunk, record, stretch.start, whole)

    # -- a chunk

    def _choose(
        self, view: TensorView, exact: Sequence[Attempt], base: Attempt | None, target: Target
    ) -> _Choice:
        with eio_as_corruption():
            content = self._reader.read_current(target.chunk)
        size = len(content)
        if target.is_whole:
            for attempt in exact:
                form = self._tried(attempt, target, content)
                if form is not None and is_worth(form, size, size):
                    return _Choice(target, form, attempt.candidate)
        near = None
        if base is not None and target.is_whole:
            near = self._tried(base, target, content)
        form = near_or_alone(near, content, view.element, view.grid(target.start))
        return _Choice(target, form, base.candidate if base and form is near else None)

    def _tried(self, attempt: Attempt, target: Target, content: bytes) -> Form | None:
        form = attempt.form(content, target.start)
        return form if form is not None and self._attempts.allows(target, form) else None

    # -- a narrower tensor that was stored before

    def _narrow(self, output: BatchOutput, view: TensorView, candidate: Candidate) -> None:
        """Derive the chunks of another tensor from this one, by rounding."""
        narrow = self._attempts.view(candidate)
        attempt = Attempt(candidate, rounding(view, narrow.row.dtype))
        for stretch in narrow.spans:
            chunk, skip, length = stretch.run
            record = self._chunks.record(chunk)
            if skip or length != record.size or not _may_shrink(record):
                continue
            with eio_as_corruption():
                content = self._reader.read_current(chunk)
            target = Target(chunk, record, stretch.start)
            form = self._tried(attempt, target, content)
            fits = form is not None and is_worth(form, length, record.stored)
            if form is not None and fits and output.claim(chunk):
                output.put(target, form, narrow.element)


def _leave(output: BatchOutput, view: TensorView, exc: CorruptData) -> None:
    output.damaged += 1
    log.error("tensor %s of file %d stays as it is: %s", view.row.name, view.inode, exc)


def _may_shrink(record: Chunk) -> bool:
    # What is derived without anything stored is as small as it gets.
    return not record.is_lost and (
        record.kind is not ChunkKind.DERIVED or record.codec is CodecId.DELTA
    )
