"""Attempts: what the relatives of a tensor let it try."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptChunk, CorruptPack
from modelfs.jobs.optimize.batch import Target
from modelfs.jobs.optimize.encoders import (
    Alignment,
    DeltaEncoder,
    GatherEncoder,
    Proposal,
    TransposeEncoder,
    rounding,
)
from modelfs.jobs.optimize.forms import Form
from modelfs.jobs.optimize.similarity import Candidate, Relation
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.tensor_view import TensorView
from modelfs.store.packs.pack import eio_as_corruption

# Bases that a delta is tried against, with one of the tensor's chunks.
BASES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """A relative, and what it proposes."""

    candidate: Candidate
    proposal: Proposal

    def form(self, content: bytes, start: int) -> Form | None:
        """Return what it comes to for a chunk, None if to nothing."""
        try:
            with eio_as_corruption():
                return self.proposal.form(content, start)
        except (CorruptChunk, CorruptPack):
            return None  # whoever reads the source is told


class Attempts:
    """Makes leads of candidates. Any thread."""

    def __init__(self, maps: FileMaps, chunks: ChunkTable, reader: ChunkReader, depth: int) -> None:
        """Begin a run; `depth` as in `Lineage.may_derive`."""
        self._maps = maps
        self._chunks = chunks
        self._reader = reader
        self._depth = depth

    def view(self, candidate: Candidate) -> TensorView:
        """Return the relative's tensor."""
        return TensorView(self._maps, self._reader, candidate.inode, candidate.row)

    def allows(self, target: Target, form: Form) -> bool:
        """Whether a chunk may have such a form, as far as can be told before it is taken."""
        lineage = self._chunks.lineage
        return lineage.may_derive(
            target.chunk, form.codec, form.sources, self._chunks.find, self._depth
        )

    def exact(self, view: TensorView, candidates: Iterable[Candidate]) -> list[Attempt]:
        """Return those that store nothing but where the content comes from."""
        found: list[Attempt] = []
        parts: list[tuple[Candidate, Alignment]] = []
        for candidate in candidates:
            source = self.view(candidate)
            match candidate.relation:
                case Relation.CAST:
                    found.append(Attempt(candidate, rounding(source, view.row.dtype)))
                case Relation.TRANSPOSE:
                    found.append(Attempt(candidate, TransposeEncoder(source)))
                case Relation.EQUAL | Relation.ALIGNED:
                    parts.append((candidate, Alignment(source, candidate.shift)))
        if parts:
            assembly = GatherEncoder([part for _, part in parts], self._reader.gather)
            found.append(Attempt(parts[0][0], assembly))
        return found

    def nearest(
        self, view: TensorView, targets: Sequence[Target], candidates: Iterable[Candidate]
    ) -> Attempt | None:
        """Return the base to which deltas are smallest, None without any.

        Raises:
            CorruptChunk: a chunk of the tensor is damaged.
        """
        near = (each for each in candidates if each.relation is Relation.NEAR)
        target = targets[len(targets) // 2]
        # Where a chain may have no more deltas, many relatives come to the same base.
        bases: dict[tuple[SourceRun, ...], Attempt] = {}
        for candidate in near:
            difference = DeltaEncoder(
                self.view(candidate), view.element, self._base_of, self._reader.gather
            )
            if runs := difference.runs(target.start, target.record.size):
                bases.setdefault(runs, Attempt(candidate, difference))
        attempts = list(bases.values())[:BASES_MAX]
        if len(attempts) < 2:
            return attempts[0] if attempts else None
        content = self._reader.read_current(target.chunk)

        def size(attempt: Attempt) -> float:
            form = attempt.form(content, target.start)
            return math.inf if form is None else len(form.stored)

        return min(attempts, key=size)

    def _base_of(self, run: SourceRun) -> SourceRun:
        # Where a chain may have no more deltas, the base of a delta is taken in its place.
        lineage, find = self._chunks.lineage, self._chunks.find
        while lineage.deltas_above(run.chunk, find) >= self._depth:
            record, sources = find(run.chunk), lineage.sources(run.chunk)
            if record is None or record.codec is not CodecId.DELTA or len(sources) != 1:
                break
            below = find(sources[0])
            if below is None or below.size != record.size:
                break
            run = SourceRun(sources[0], run.skip, run.length)
        return run
