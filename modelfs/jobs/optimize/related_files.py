"""Where a file's tensors were found to have relatives, so that its next ones look there first.

One tensor of a model that was made from another model's is a sign for all others: those are where
their names say, or in the same order. So a model's large tensors find the other model by their
content, and its small ones, which are not worth rows of the index, find theirs by its outline.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Final

from modelfs.codecs.elements import element_of
from modelfs.jobs.optimize.similarity import SAVING_MIN, Candidate, Relation, SimilarityIndex
from modelfs.sketches.samples import CASTS
from modelfs.sketches.sketch import Sketch
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.records import TensorRow
from modelfs.store.index.tables import InodeNumber

# Files whose sources are remembered, sources of each, and outlines that are kept.
FILES_MAX: Final = 256
SOURCES_MAX: Final = 3
OUTLINES_MAX: Final = 4
# Of a file with more tensors, as many are in its outline: some megabytes.
TENSORS_MAX: Final = 1 << 14


class TensorOutline:
    """Where a file has which name, and which tensors of a shape, in file order."""

    def __init__(self, tensors: TensorTable, inode: InodeNumber) -> None:
        self.names: dict[str, int] = {}
        self.shapes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for span in islice(tensors.spans(inode), TENSORS_MAX):
            if span.size:
                self.names.setdefault(span.name, span.start)
                self.shapes[span.shape].append(span.start)

    def counterpart(self, row: TensorRow, other: "TensorOutline") -> int | None:
        """Return where the other file has what this one has as `row`."""
        if row.name in other.names:
            return other.names[row.name]
        mine, theirs = self.shapes.get(row.shape, []), other.shapes.get(row.shape, [])
        if row.start not in mine or len(mine) != len(theirs):
            return None  # the same place among more, or fewer, is most likely another's
        return theirs[mine.index(row.start)]


class RelatedFiles:
    """Remembers in memory, within bounds, which files are related. One thread."""

    def __init__(self, similarity: SimilarityIndex, tensors: TensorTable) -> None:
        self._similarity = similarity
        self._tensors = tensors
        self._sources: OrderedDict[InodeNumber, list[InodeNumber]] = OrderedDict()
        self._outlines: OrderedDict[InodeNumber, TensorOutline] = OrderedDict()

    def first(self, inode: InodeNumber, row: TensorRow, sketch: Sketch | None) -> list[Candidate]:
        """Return what a tensor corresponds to in the files that its file's others were made from.

        That is the tensor of the same name, or else the one in the same place among those of its
        shape; NEAR, CAST or WIDER by the dtypes. Tensors too small to be listed in the index are
        found in no other way, so they are given although nothing is known but that.
        """
        found = (self._candidate(row, sketch, *each) for each in self._counterparts(inode, row))
        return [each for each in found if each is not None]

    def accept(self, inode: InodeNumber, candidate: Candidate) -> None:
        """Remember that a tensor of a file was made from a candidate."""
        if candidate.inode == inode:
            return  # its other tensors have no counterparts there but themselves
        others = [each for each in self._sources.pop(inode, []) if each != candidate.inode]
        self._sources[inode] = [candidate.inode, *others][:SOURCES_MAX]
        if len(self._sources) > FILES_MAX:
            self._sources.popitem(last=False)

    def _counterparts(
        self, inode: InodeNumber, row: TensorRow
    ) -> Iterator[tuple[InodeNumber, TensorRow]]:
        for source in self._sources.get(inode, []):
            start = self._outline(inode).counterpart(row, self._outline(source))
            if start is not None and (theirs := self._tensors.find(source, start)) is not None:
                yield source, theirs

    def _candidate(
        self, mine: TensorRow, sketch: Sketch | None, inode: InodeNumber, theirs: TensorRow
    ) -> Candidate | None:
        own = 8.0 * element_of(mine.dtype).width if sketch is None else sketch.bits
        if mine.dtype != theirs.dtype:
            relation = _rounding(mine, theirs, sketch)
            bits = 0.0 if relation is Relation.CAST else own
            return None if relation is None else Candidate(relation, inode, theirs, bits)
        if not _is_comparable(mine, theirs):
            return None
        known = None if sketch is None else self._similarity.bits_from(sketch, inode, theirs)
        if known is not None and known > (1 - SAVING_MIN) * own:
            return None
        return Candidate(Relation.NEAR, inode, theirs, own if known is None else known)

    def _outline(self, inode: InodeNumber) -> TensorOutline:
        if inode not in self._outlines:
            self._outlines[inode] = TensorOutline(self._tensors, inode)
        self._outlines.move_to_end(inode)
        if len(self._outlines) > OUTLINES_MAX:
            self._outlines.popitem(last=False)
        return self._outlines[inode]


def _rounding(mine: TensorRow, theirs: TensorRow, sketch: Sketch | None) -> Relation | None:
    if mine.shape != theirs.shape:
        return None
    if mine.dtype in CASTS.get(theirs.dtype, {}):
        return Relation.CAST
    if theirs.dtype in CASTS.get(mine.dtype, {}):
        widened = sketch is not None and theirs.dtype in sketch.widened
        return Relation.CAST if widened else Relation.WIDER
    return None


def _is_comparable(mine: TensorRow, theirs: TensorRow) -> bool:
    same_rows = mine.shape[1:] == theirs.shape[1:]
    return mine.dtype == theirs.dtype and (mine.size == theirs.size or same_rows)
