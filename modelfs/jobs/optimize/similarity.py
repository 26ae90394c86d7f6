"""Which stored tensors a tensor could be made from, without names and at a cost that stays flat.

Every tensor that is worth it is listed under the keys of its sketch. A tensor that comes looks its
own keys up: equal ones lead to tensors that are exactly so, or nearly so, or have rows in common.
Of the tensors that share a key only the oldest few and the newest few are looked at: the oldest is
what the others were made from, and the newest is from the series of checkpoints being written. So
the cost depends on how many keys a sketch has, and not on how many tensors there are.

Rows of the table, by the kind in their key::

    kind     hash                       value
    EXACT    of all samples             empty
    BAND     a band                     empty
    ROW      of a row of the tensor     u64, big-endian: its byte offset in the tensor
    SAMPLES  zero, as is the tag        `Samples`

The tag is a hash of what a tensor looked like when it was listed: dtype, shape and samples. Rows
whose tensor is gone or looks different are passed over, and swept by gc. All of them are hints:
nothing that is stored depends on them.
"""

import enum
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

import xxhash

from modelfs.codecs.elements import element_of
from modelfs.sketches.samples import Samples
from modelfs.sketches.sketch import Sketch
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.records import SketchKind, TensorRow
from modelfs.store.index.tables import InodeNumber, Table, prefix_end, relative_key, relative_of
from modelfs.store.store import Store

# Of the tensors that share a key, as many of the oldest and of the newest are looked at.
OLDEST: Final = 4
NEWEST: Final = 2
# Of one tensor, this many near ones are compared by their samples, those that share most bands.
COMPARED_MAX: Final = 8
# As many candidates are returned of exact relations, of near ones, and of aligned ones.
EXACT_MAX: Final = 4
NEAR_MAX: Final = 4
ALIGNED_MAX: Final = 8
CANDIDATES_MAX: Final = EXACT_MAX + NEAR_MAX + ALIGNED_MAX
# A difference that does not save at least this part is none: planes are read without a source.
SAVING_MIN: Final = 0.03

_OFFSET = struct.Struct(">Q")


class Relation(enum.Enum):
    """How a tensor is related to its source, and so what could make it from that."""

    EQUAL = enum.auto()  # the same bytes
    CAST = enum.auto()  # the source's values rounded, quantised, or widened
    WIDER = enum.auto()  # no form: rounding or quantising this tensor gives the source
    TRANSPOSE = enum.auto()  # the source with its last two axes swapped
    ALIGNED = enum.auto()  # rows of the source, all moved by the same number of bytes
    NEAR = enum.auto()  # the same dtype and place, values that differ little: a delta


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored tensor that another could be made from. A hint: only encoding shows what is so.

    Attributes:
        relation: what the other tensor is to this one.
        inode: of the file the source is in.
        row: the source: `row.start` is where it begins in that file.
        bits: what is expected to be stored per scalar, beside the sources of a run: 0 if exact.
            Rows that were not looked up may be there, too, so ALIGNED can come to less.
        shift: of ALIGNED: byte `at` of this tensor is byte `at + shift` of the source.
        spots: of ALIGNED: byte offsets in this tensor of rows that the source has; ascending.
    """

    relation: Relation
    inode: InodeNumber
    row: TensorRow
    bits: float
    shift: int = 0
    spots: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[InodeNumber, int]:
        """Where the source is: in which file, and from which byte on."""
        return self.inode, self.row.start


class _Place(NamedTuple):
    """Where a tensor was when it was listed, and what its tag was."""

    inode: InodeNumber
    start: int
    tag: int


class SimilarityIndex:
    """The sketches of stored tensors. Reading is for any thread."""

    TABLE: Final = Table.SKETCHES

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._tensors = TensorTable(store.index)

    def put(self, inode: InodeNumber, row: TensorRow, sketch: Sketch) -> None:
        """Let a tensor be found. For the owner, in a change; again when its content changed."""
        samples = b"" if sketch.samples is None else sketch.samples.to_bytes()
        place = (inode, row.start, _tag(row, samples))
        for _, key in sketch.exact:
            self._index.put(Table.SKETCHES, relative_key(SketchKind.EXACT, key, *place), b"")
        for key in sketch.bands:
            self._index.put(Table.SKETCHES, relative_key(SketchKind.BAND, key, *place), b"")
        for key, offset in sketch.rows[: sketch.listed]:
            value = _OFFSET.pack(offset)
            self._index.put(Table.SKETCHES, relative_key(SketchKind.ROW, key, *place), value)
        if samples:
            self._index.put(Table.SKETCHES, _samples_key(inode, row.start), samples)
        else:
            self._index.delete(Table.SKETCHES, _samples_key(inode, row.start))

    def candidates(self, inode: InodeNumber, row: TensorRow, sketch: Sketch) -> list[Candidate]:
        """Return what a tensor could be made from: exact relations, near and aligned ones.

        Each of these best first. At most CANDIDATES_MAX, and never the tensor itself.
        """
        search = _Search(self, (inode, row.start), sketch)
        exact = list(search.exact())[:EXACT_MAX]
        near = sorted(search.near(), key=lambda each: each.bits)[:NEAR_MAX]
        aligned = sorted(search.aligned(), key=lambda each: each.bits)
        # Rows of a near tensor that are in the same place are part of what it is near for.
        known = {each.place for each in (*exact, *near)}
        moved = (each for each in aligned if each.shift or each.place not in known)
        return [*exact, *near, *islice(moved, ALIGNED_MAX)]

    def bits_from(self, sketch: Sketch, inode: InodeNumber, row: TensorRow) -> float | None:
        """Return what a tensor would take per scalar, made from another of its dtype.

        None if no samples of one or the other are known.
        """
        theirs = self._samples(inode, row) if sketch.samples is not None else None
        return None if theirs is None else sketch.bits_from(theirs)

    def _samples(self, inode: InodeNumber, row: TensorRow) -> Samples | None:
        stored = self._index.get(Table.SKETCHES, _samples_key(inode, row.start))
        if stored is None:
            return None
        try:
            return Samples.from_bytes(row.dtype, row.size // element_of(row.dtype).width, stored)
        except ValueError:
            return None

    def is_stale(self, key: bytes) -> bool:
        """Whether a row is of a tensor that is gone, or looks different."""
        kind, _, inode, start, tag = relative_of(key)
        if kind != SketchKind.SAMPLES:
            return self.tensor(_Place(InodeNumber(inode), start, tag)) is None
        row = self._tensors.find(InodeNumber(inode), start)
        return row is None or self._samples(InodeNumber(inode), row) is None

    def tensor(self, place: _Place) -> TensorRow | None:
        """Return the tensor that is at a place, if it looks as it did when it was listed."""
        row = self._tensors.find(place.inode, place.start)
        if row is None:
            return None
        stored = self._index.get(Table.SKETCHES, _samples_key(place.inode, place.start))
        return row if place.tag == _tag(row, stored or b"") else None

    def listed(self, kind: SketchKind, key: int) -> Iterator[tuple[_Place, bytes]]:
        """Yield the oldest few and the newest few tensors of a key, and their rows' values."""
        low = relative_key(kind, key, 0, 0, 0)
        prefix = low[:9]
        rows = self._index.scan(Table.SKETCHES, low, prefix_end(prefix), OLDEST)
        if len(rows) == OLDEST:
            oldest = rows[-1][0]
            last = prefix + b"\xff" * (len(low) - len(prefix))
            for _ in range(NEWEST):
                row = self._index.floor(Table.SKETCHES, last, oldest)
                if row is None or row[0] == oldest:
                    break
                rows.append(row)
                last = (int.from_bytes(row[0], "big") - 1).to_bytes(len(last), "big")
        for found, value in rows:
            _, _, inode, start, tag = relative_of(found)
            yield _Place(InodeNumber(inode), start, tag), value


class _Search:
    """The look-ups for one tensor."""

    def __init__(
        self, similarity: SimilarityIndex, here: tuple[InodeNumber, int], sketch: Sketch
    ) -> None:
        self._similarity = similarity
        self._here = here
        self._sketch = sketch
        self._known: dict[_Place, TensorRow | None] = {}

    def exact(self) -> Iterator[Candidate]:
        seen: set[tuple[_Place, Relation]] = set()
        for key, place, row in self._exact_hits():
            relation = self._relation(key, row)
            if relation is not None and (place, relation) not in seen:
                seen.add((place, relation))
                bits = self._sketch.bits if relation is Relation.WIDER else 0.0
                yield Candidate(relation, place.inode, row, bits)

    def _exact_hits(self) -> Iterator[tuple[str | None, _Place, TensorRow]]:
        """Yield what shares an exact key: the key's dtype, or None for the transposed one."""
        keys: list[tuple[str | None, int]] = [*self._sketch.exact]
        if self._sketch.transposed is not None:
            keys.insert(1, (None, self._sketch.transposed))
        for dtype, key in keys:
            for place, row, _ in self._found(SketchKind.EXACT, key):
                yield dtype, place, row

    def _relation(self, dtype: str | None, source: TensorRow) -> Relation | None:
        mine = self._sketch.dtype
        if dtype is None:
            return Relation.TRANSPOSE if source.dtype == mine else None
        if dtype == mine:
            return Relation.EQUAL if source.dtype == mine else Relation.CAST
        if dtype != source.dtype:
            return None  # both are rounded to the same: near, if anything
        return Relation.CAST if dtype in self._sketch.widened else Relation.WIDER

    def near(self) -> Iterator[Candidate]:
        votes: Counter[_Place] = Counter()
        for key in self._sketch.bands:
            votes.update(place for place, _, _ in self._found(SketchKind.BAND, key))
        for place, _ in votes.most_common(COMPARED_MAX):
            row = self._known[place]
            assert row is not None, "found"
            bits = self._similarity.bits_from(self._sketch, place.inode, row)
            if bits is not None and bits <= (1 - SAVING_MIN) * self._sketch.bits:
                yield Candidate(Relation.NEAR, place.inode, row, bits)

    def aligned(self) -> Iterator[Candidate]:
        spots: defaultdict[tuple[_Place, int], list[int]] = defaultdict(list)
        for key, offset in self._sketch.rows:
            for place, _, value in self._found(SketchKind.ROW, key):
                spots[place, _OFFSET.unpack(value)[0] - offset].append(offset)
        for (place, shift), mine in spots.items():
            row = self._known[place]
            assert row is not None, "found"
            bits = self._sketch.bits * (1 - len(mine) / len(self._sketch.rows))
            yield Candidate(
                Relation.ALIGNED, place.inode, row, bits, shift, tuple(sorted(set(mine)))
            )

    def _found(self, kind: SketchKind, key: int) -> Iterator[tuple[_Place, TensorRow, bytes]]:
        for place, value in self._similarity.listed(kind, key):
            if (place.inode, place.start) == self._here:
                continue
            if place not in self._known:
                self._known[place] = self._similarity.tensor(place)
            if (row := self._known[place]) is not None:
                yield place, row, value


def _samples_key(inode: InodeNumber, start: int) -> bytes:
    return relative_key(SketchKind.SAMPLES, 0, inode, start, 0)


def _tag(row: TensorRow, samples: bytes) -> int:
    look = f"{row.dtype} {row.shape} {row.size} ".encode()
    return xxhash.xxh3_64_intdigest(look + samples) & 0xFFFFFFFF
