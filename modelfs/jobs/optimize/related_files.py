"""Related files: where the tensors of one file found their sources, and the next ones look first.

Theory of operation. A tensor that derives from a tensor of another file shows that the two files
are related: the other tensors of the first file have *counterparts* in the second, of the same
name, or at the same position among the tensors of their shape. So a file's large tensors find the
other file by their content, through `SimilarityIndex`; its small ones, which are not worth rows of
the index, find their counterparts by name or position.

Example. The word embeddings of a fine-tune are found NEAR those of base.safetensors, and become a
delta. `accept` remembers base.safetensors as a source of the fine-tune. The next tensor is a bias
of 1,536 bytes, which has no bands and so no near candidates in the index. Its counterpart, the
base's bias of the same name, is tried as a base: the delta takes 962 bytes. The base's bias itself
takes 1,333 in byte planes.
"""

from collections import OrderedDict, defaultdict
from itertools import islice
from typing import Final

from modelfs.codecs.elements import element_of
from modelfs.jobs.optimize.similarity import SAVING_MIN, Candidate, Relation, SimilarityIndex
from modelfs.sketches.samples import CASTS
from modelfs.sketches.sketch import Sketch
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import InodeNumber
from modelfs.store.index.tensor_records import TensorRow

# Bounds of memory: files with known sources, sources of each, and outlines.
FILES_MAX: Final = 256
SOURCES_MAX: Final = 3
OUTLINES_MAX: Final = 4
# The outline of a file has this many of its tensors at most, some megabytes.
TENSORS_MAX: Final = 1 << 14


class TensorOutline:
    """The offsets of a file's tensors, by name, and by shape in file order."""

    def __init__(self, tensors: TensorTable, inode: InodeNumber) -> None:
        self.by_name: dict[str, int] = {}
        self.by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for span in islice(tensors.spans(inode), TENSORS_MAX):
            if span.size:
                self.by_name.setdefault(span.name, span.start)
                self.by_shape[span.shape].append(span.start)

    def counterpart_in(self, other: "TensorOutline", row: TensorRow) -> int | None:
        """Return the offset in another file of the counterpart of this file's tensor `row`."""
        if row.name in other.by_name:
            return other.by_name[row.name]
        starts, other_starts = self.by_shape.get(row.shape, []), other.by_shape.get(row.shape, [])
        if row.start not in starts or len(starts) != len(other_starts):
            return None  # among more or fewer tensors, the same position is likely another's
        return other_starts[starts.index(row.start)]


class RelatedFiles:
    """Remembers which files are related, in bounded memory. One thread."""

    def __init__(self, similarity: SimilarityIndex, tensors: TensorTable) -> None:
        self._similarity = similarity
        self._tensors = tensors
        self._sources: OrderedDict[InodeNumber, list[InodeNumber]] = OrderedDict()
        self._outlines: OrderedDict[InodeNumber, TensorOutline] = OrderedDict()

    def candidates(
        self, inode: InodeNumber, row: TensorRow, sketch: Sketch | None
    ) -> list[Candidate]:
        """Return a tensor's counterparts, then other tensors with similar content, each once.

        Args:
            inode: of the tensor's file.
            row: of the tensor.
            sketch: of the tensor; None if it is too small for one.
        """
        candidates = self.counterparts(inode, row, sketch)
        if sketch is not None:
            candidates += self._similarity.candidates(inode, row, sketch)
        unique: dict[tuple[Relation, InodeNumber, int, int], Candidate] = {}
        for candidate in candidates:
            place = candidate.relation, *candidate.place, candidate.shift
            unique.setdefault(place, candidate)
        return list(unique.values())

    def counterparts(
        self, inode: InodeNumber, row: TensorRow, sketch: Sketch | None
    ) -> list[Candidate]:
        """Return the counterparts of a tensor in the related files of its file.

        The relation follows from the dtypes: NEAR, CAST or WIDER. A counterpart without samples is
        returned as well, with the bits of the tensor itself: tensors too small for samples are
        found in no other way.
        """
        candidates: list[Candidate] = []
        for source_inode in self._sources.get(inode, []):
            start = self._outline(inode).counterpart_in(self._outline(source_inode), row)
            source = None if start is None else self._tensors.find(source_inode, start)
            if source is None:
                continue
            if (candidate := self._as_candidate(row, sketch, source_inode, source)) is not None:
                candidates.append(candidate)
        return candidates

    def accept(self, inode: InodeNumber, candidate: Candidate) -> None:
        """Remember that a tensor of a file derives from a candidate."""
        if candidate.inode == inode:
            return  # the other tensors of the file would be their own counterparts
        others = [source for source in self._sources.pop(inode, []) if source != candidate.inode]
        self._sources[inode] = [candidate.inode, *others][:SOURCES_MAX]
        if len(self._sources) > FILES_MAX:
            self._sources.popitem(last=False)

    def _as_candidate(
        self, row: TensorRow, sketch: Sketch | None, inode: InodeNumber, source: TensorRow
    ) -> Candidate | None:
        """Return a counterpart as a candidate; None if no encoder is worth a try."""
        own_bits = 8.0 * element_of(row.dtype).width if sketch is None else sketch.bits
        if row.dtype == source.dtype:
            if row.size != source.size and row.shape[1:] != source.shape[1:]:
                return None
            bits = None if sketch is None else self._similarity.bits_from(sketch, inode, source)
            saves_enough = bits is None or bits <= (1 - SAVING_MIN) * own_bits
            near = Candidate(Relation.NEAR, inode, source, own_bits if bits is None else bits)
            return near if saves_enough else None
        if row.shape != source.shape:
            return None
        widened = () if sketch is None else sketch.widened
        if row.dtype in CASTS.get(source.dtype, {}) or source.dtype in widened:
            return Candidate(Relation.CAST, inode, source, 0.0)
        is_wider = source.dtype in CASTS.get(row.dtype, {})
        return Candidate(Relation.WIDER, inode, source, own_bits) if is_wider else None

    def _outline(self, inode: InodeNumber) -> TensorOutline:
        if inode not in self._outlines:
            self._outlines[inode] = TensorOutline(self._tensors, inode)
        self._outlines.move_to_end(inode)
        if len(self._outlines) > OUTLINES_MAX:
            self._outlines.popitem(last=False)
        return self._outlines[inode]
