"""The work on a batch: from tensors to smaller forms of their chunks. Any thread.

Theory of operation. Each tensor is read twice: once to compute its sketch and look up candidates,
once to try encoders on its chunks.

1. *Sketch.* Hashes of sampled values, of comparisons of them, and of rows (`sketches.sketch`).
2. *Candidates.* Stored tensors that it may derive from: its counterparts in files that its file is
   known to derive from (`RelatedFiles`), and tensors with similar content (`SimilarityIndex`).
3. *Encoders.* Exact ones for the exact candidates; one delta encoder for the near candidate with
   the smallest deltas (`EncoderSelector`).
4. *Forms.* Each chunk gets the first exact form; without one, the smaller of its delta and its
   standalone form. Chunks are encoded on several threads, and appended in file order.
5. *Narrower tensors.* A WIDER candidate was stored before this tensor, but can be derived from it:
   its chunks are encoded as well.

A wrong sketch or candidate cannot lose data: each form is decoded and compared with the content,
and before it replaces the plain bytes, `Applier` checks that neither the chunk nor its sources have
changed.

Example. A store has base.safetensors; finetune.safetensors, trained from it, is ingested. (Sizes
are those of tests/data/minilm-slice.) The batch has its four tensors, one chunk each::

    tensor              bytes     candidate               tried                    stored
    word embeddings   393,216     NEAR, by bands          delta to base's chunk    54,851
    query.bias          1,536     NEAR, by name           delta to base's chunk       962
    query.weight      589,824     NEAR, by bands          delta to base's chunk   327,677
    LayerNorm.weight    1,536     NEAR, by name           delta to base's chunk       791

The word embeddings share bands with those of the base, by which a delta takes 11.6 bits per scalar
and the tensor itself 26.6. Their only chunk is encoded as a delta, and in byte planes, which takes
some 328,000 bytes: the delta wins, and base.safetensors is remembered as a source of the file. The
bias has no bands, so it is found by its name in base.safetensors. In all, 986,112 bytes of tensors
become deltas of 384,281 bytes, and the records of the four chunks name the base's as their sources.
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
from modelfs.errors import CorruptData, CorruptIndex
from modelfs.jobs.optimize.batch import Batch, BatchOutput, BatchResult, Target
from modelfs.jobs.optimize.encoders import conversion_encoder
from modelfs.jobs.optimize.forms import Form, saves_enough, smallest_form
from modelfs.jobs.optimize.pipeline import Pipeline
from modelfs.jobs.optimize.rebase import Rebaser
from modelfs.jobs.optimize.related_files import RelatedFiles
from modelfs.jobs.optimize.selector import CandidateEncoder, EncoderSelector
from modelfs.jobs.optimize.similarity import Candidate, Relation, SimilarityIndex
from modelfs.sketches.sketch import Sampler, Sketch
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.files.tensor_view import TensorView
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import InodeNumber
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.packs.pack import eio_as_corruption
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# Chunks that are encoded ahead of the one to append next. They are in memory.
AHEAD: Final = 16
# The first tensors of a file are worked on one at a time, until one derives from another file, as
# that shows where the next tensor has its counterpart. Not all tensors of a file without sources:
# that leaves one of two cores idle, and hardly any file has its first source later.
SERIAL_TENSORS: Final = 8


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one run of the optimizer."""

    depth: int  # as in `Lineage.may_derive`
    threads: int  # that encode at the same time
    include_optimized: bool  # encode chunks that are optimized already, too


class _Encoded(NamedTuple):
    """A chunk in its new form."""

    target: Target
    form: Form
    candidate: Candidate | None = None  # that it derives from


class Worker:
    """Encodes the chunks of batches, for one run of the optimizer."""

    def __init__(self, store: Store, options: RunOptions) -> None:
        self._maps = store.maps
        self._chunks = store.chunks
        self._reader = store.chunk_reader
        self._options = options
        self._selector = EncoderSelector(
            store.maps, store.chunks, store.chunk_reader, options.depth
        )
        self._related_files = RelatedFiles(SimilarityIndex(store), TensorTable(store.index))
        self._pipeline: Pipeline[_Encoded] = Pipeline(options.threads, AHEAD)
        self._derived_files: set[InodeNumber] = set()  # with a chunk that derives from another
        self._serial_tensors: Counter[InodeNumber] = Counter()  # worked on one at a time, by file
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let `work` return soon, with the forms appended until then."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        self._pipeline.close()

    def work(self, batch: Batch, writer: ChunkWriter) -> BatchResult:
        """Append the smaller forms of a batch's chunks, durably.

        Raises:
            OSError: the disk is full or failed; roll back the writer.
        """
        output = BatchOutput(batch, writer)
        try:
            for row in batch.rows:
                if self.stopped:
                    break
                try:
                    view = TensorView(self._maps, self._reader, batch.inode, row)
                except CorruptIndex as exc:
                    _report_damage(output, batch.inode, row, exc)
                else:
                    self._encode_tensor(output, view)
            self._pipeline.drain()
        finally:
            self._pipeline.drop()
        rebaser = Rebaser(
            self._chunks, self._reader, self._options.depth, output, self._stop.is_set
        )
        for base in batch.base_only:
            if self.stopped:
                break
            rebaser.rebase(base)
        return output.finish(stopped=self.stopped)

    # -- a tensor

    def _encode_tensor(self, output: BatchOutput, view: TensorView) -> None:
        """Submit the chunks of a tensor to the pipeline, and encode those of WIDER candidates."""
        try:
            sketch = self._sketch(view)
            candidates = self._related_files.candidates(view.inode, view.row, sketch)
            targets = [target for target in self._targets(view) if output.claim(target.chunk)]
            if targets:
                exact = self._selector.exact(view, candidates)
                with eio_as_corruption():
                    delta = self._selector.delta(view, targets, candidates)
                append = partial(self._append, output, view)
                for target in targets:
                    self._pipeline.add(partial(self._encode, view, exact, delta, target), append)
            if sketch is not None:
                output.sketches.append((view.inode, view.row, sketch))
            for candidate in candidates:
                if candidate.relation is Relation.WIDER and not self.stopped:
                    self._encode_narrower(output, view, candidate)
        except CorruptData as exc:
            _report_damage(output, view.inode, view.row, exc)
        waits = self._serial_tensors[view.inode] < SERIAL_TENSORS
        if waits and view.inode not in self._derived_files:
            self._serial_tensors[view.inode] += 1
            self._pipeline.drain()

    def _sketch(self, view: TensorView) -> Sketch | None:
        """Return the sketch of a tensor, None if it is too small or the worker was stopped."""
        sampler = Sampler(view.row.dtype, view.row.shape, view.size)
        for span in view.spans:
            if self.stopped:
                return None
            with eio_as_corruption():
                content = self._reader.gather([span.run])
            sampler.feed(span.start, content)
        return sampler.sketch()

    def _targets(self, view: TensorView) -> Iterator[Target]:
        """Yield the chunks of a tensor that may get a smaller form."""
        for span in view.spans:
            chunk, skip, length = span.run
            record = self._chunks.record(chunk)
            is_due = self._options.include_optimized or not record.optimized
            if is_due and _may_shrink(record):
                is_whole = skip == 0 and length == record.size
                yield Target(chunk, record, span.start, is_whole)

    # -- a chunk

    def _encode(
        self,
        view: TensorView,
        exact: Sequence[CandidateEncoder],
        delta: CandidateEncoder | None,
        target: Target,
    ) -> _Encoded:
        """Return the form of a chunk: exact, or the smaller of delta and standalone. Any thread.

        A chunk with bytes outside of the tensor is never derived.
        """
        with eio_as_corruption():
            content = self._reader.read_current(target.chunk)
        size = len(content)
        if target.is_whole:
            for encoder in exact:
                form = self._derive(encoder, target, content)
                if form is not None and saves_enough(form, size, size):
                    return _Encoded(target, form, encoder.candidate)
        delta_form = None
        if delta is not None and target.is_whole:
            delta_form = self._derive(delta, target, content)
        form = smallest_form(content, view.element, view.grid(target.start), delta=delta_form)
        if delta is not None and form is delta_form:
            return _Encoded(target, form, delta.candidate)
        return _Encoded(target, form)

    def _derive(self, encoder: CandidateEncoder, target: Target, content: bytes) -> Form | None:
        """Return a derived form of a chunk, None if there is none or its chain is too long."""
        form = encoder.encode(content, target.start)
        if form is None or not self._chunks.lineage.may_derive(
            target.chunk, form.codec, form.sources, self._chunks.find, self._options.depth
        ):
            return None
        return form

    def _append(self, output: BatchOutput, view: TensorView, future: Future[_Encoded]) -> None:
        """Append an encoded chunk, and remember the file that it derives from."""
        try:
            target, form, candidate = future.result()
        except CorruptData as exc:
            _report_damage(output, view.inode, view.row, exc)
            return
        if not target.record.optimized or len(form.stored) < target.record.stored:
            output.put(target, form, view.element)
        if candidate is not None:
            self._related_files.accept(view.inode, candidate)
            self._derived_files.add(view.inode)

    # -- a narrower tensor that was stored before

    def _encode_narrower(self, output: BatchOutput, view: TensorView, candidate: Candidate) -> None:
        """Derive the chunks of a WIDER candidate from this tensor, by rounding or quantising."""
        narrow = self._selector.view(candidate)
        encoder = CandidateEncoder(candidate, conversion_encoder(view, narrow.row.dtype))
        for span in narrow.spans:
            chunk, skip, length = span.run
            record = self._chunks.record(chunk)
            if skip or length != record.size or not _may_shrink(record):
                continue
            with eio_as_corruption():
                content = self._reader.read_current(chunk)
            target = Target(chunk, record, span.start)
            form = self._derive(encoder, target, content)
            is_worth_it = form is not None and saves_enough(form, length, record.stored)
            if form is not None and is_worth_it and output.claim(chunk):
                output.put(target, form, narrow.element)


def _report_damage(
    output: BatchOutput, inode: InodeNumber, row: TensorRow, exc: CorruptData
) -> None:
    output.damaged += 1
    log.error("tensor %s of file %d stays as it is: %s", row.name, inode, exc)


def _may_shrink(record: Chunk) -> bool:
    # A derived chunk that stores no differences is as small as it gets.
    return not record.is_lost and (
        record.kind is not ChunkKind.DERIVED or record.codec is CodecId.DELTA
    )
