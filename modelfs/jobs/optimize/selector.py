"""Selection of encoders: for each candidate, the encoder to try on the chunks of a tensor.

Example. A tensor has three candidates: NEAR in base.safetensors, NEAR in another fine-tune, and
ALIGNED in a merged model. One exact encoder is selected, a `GatherEncoder` for the aligned one. Of
the two near ones, the selector encodes the tensor's middle chunk as a delta to both, and selects
the one with fewer bytes. With a depth of 1 there is often one base only: the other fine-tune's
chunk is a delta itself, so its base, the chunk of base.safetensors, is used in its place.
"""

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
    Encoder,
    GatherEncoder,
    TransposeEncoder,
    conversion_encoder,
)
from modelfs.jobs.optimize.forms import Form
from modelfs.jobs.optimize.similarity import Candidate, Relation
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.tensor_view import TensorView
from modelfs.store.packs.pack import eio_as_corruption

# Bases to which one chunk of a tensor is encoded, to select the best of them.
BASES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class CandidateEncoder:
    """A candidate, and the encoder that derives chunks from it."""

    candidate: Candidate
    encoder: Encoder

    def encode(self, content: bytes, start: int) -> Form | None:
        """Return a derived form of a chunk; None without one, or if the source is damaged."""
        try:
            with eio_as_corruption():
                return self.encoder.encode(content, start)
        except (CorruptChunk, CorruptPack):
            return None  # scrub and reads of the source report the damage


class EncoderSelector:
    """Selects encoders for the candidates of a tensor. Any thread."""

    def __init__(self, maps: FileMaps, chunks: ChunkTable, reader: ChunkReader, depth: int) -> None:
        """Begin a run; `depth` as in `Lineage.may_derive`."""
        self._maps = maps
        self._chunks = chunks
        self._reader = reader
        self._depth = depth

    def view(self, candidate: Candidate) -> TensorView:
        """Return a view of the candidate's tensor."""
        return TensorView(self._maps, self._reader, candidate.inode, candidate.row)

    def exact(self, view: TensorView, candidates: Iterable[Candidate]) -> list[CandidateEncoder]:
        """Return the encoders of exact candidates. One `GatherEncoder` is for all aligned ones."""
        encoders: list[CandidateEncoder] = []
        aligned: list[Candidate] = []
        alignments: list[Alignment] = []
        for candidate in candidates:
            source = self.view(candidate)
            match candidate.relation:
                case Relation.CAST:
                    encoder = conversion_encoder(source, view.row.dtype)
                    encoders.append(CandidateEncoder(candidate, encoder))
                case Relation.TRANSPOSE:
                    encoders.append(CandidateEncoder(candidate, TransposeEncoder(source)))
                case Relation.EQUAL | Relation.ALIGNED:
                    aligned.append(candidate)
                    alignments.append(Alignment(source, candidate.shift))
        if aligned:
            gather = GatherEncoder(alignments, self._reader.gather)
            encoders.append(CandidateEncoder(aligned[0], gather))
        return encoders

    def delta(
        self, view: TensorView, targets: Sequence[Target], candidates: Iterable[Candidate]
    ) -> CandidateEncoder | None:
        """Return the delta encoder of the near candidate with the smallest deltas, None without.

        Raises:
            CorruptChunk: a chunk of the tensor is damaged.
        """
        target = targets[len(targets) // 2]
        # Many candidates have the same base: those that are deltas to it already.
        by_base: dict[tuple[SourceRun, ...], CandidateEncoder] = {}
        for candidate in candidates:
            if candidate.relation is Relation.NEAR:
                encoder = DeltaEncoder(
                    self.view(candidate), view.element, self._base_of, self._reader.gather
                )
                if runs := encoder.base_runs(target.start, target.record.size):
                    by_base.setdefault(runs, CandidateEncoder(candidate, encoder))
        encoders = list(by_base.values())[:BASES_MAX]
        if len(encoders) < 2:
            return encoders[0] if encoders else None
        content = self._reader.read_current(target.chunk)

        def size(encoder: CandidateEncoder) -> float:
            form = encoder.encode(content, target.start)
            return math.inf if form is None else len(form.stored)

        return min(encoders, key=size)

    def _base_of(self, run: SourceRun) -> SourceRun:
        """Return the run to use as base in place of a run.

        If its chunk is a delta, and another one on top would exceed the depth, that is the same run
        of the delta's own base.
        """
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
