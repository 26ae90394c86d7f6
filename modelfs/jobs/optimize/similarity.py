"""An index of tensor sketches: finds the stored tensors that a tensor may derive from.

Theory of operation. A `Sketch` of a tensor has keys: hashes of sampled values (exact keys), of
comparisons between sampled values (bands), and of some of its rows. The index has a row for each
key of each optimized tensor. A look-up scans the rows of the new tensor's own keys. A tensor with
an equal exact key has, most likely, the same values, or is a cast or transpose; one with an equal
band has nearly the same values; one with an equal row has a part in common. Names and places in
files play no role, and the cost depends on the number of keys, not on the number of tensors.

Of the tensors with one key only the oldest few and the newest few are looked up: the oldest is
usually the base of all others, and the newest belongs to the series of checkpoints being written.

Rows of the table, by the kind in their key::

    kind     hash                       value
    EXACT    of all samples             empty
    BAND     a band                     empty
    ROW      of a row of the tensor     u64, big-endian: its byte offset in the tensor
    SAMPLES  zero, as is the tag        `Samples`

The tag in the key is a hash of dtype, shape and samples of the tensor when it was listed. A row is
stale if its tensor is gone or has another tag; look-ups ignore stale rows, and gc drops them. All
rows are hints: a candidate's bytes are compared before anything is stored.

Example. base.safetensors is optimized. Its word embeddings, 256 x 384 of F32, are listed under 7
exact keys (their own, and those of casts), 4 bands and 6 rows. The embeddings of a fine-tune have
another exact key but some of the same bands, as training hardly changes which of two values is
larger. So the base's are looked up. By the samples of both, a delta takes 11.6 bits per scalar, and
the tensor itself 26.6: they are a candidate, and the relation is NEAR.
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
from modelfs.errors import CorruptIndex
from modelfs.sketches.samples import Samples
from modelfs.sketches.sketch import Sketch
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.decoders import decode_sketch
from modelfs.store.index.tables import InodeNumber, Table, prefix_end, sketch_fields, sketch_key
from modelfs.store.index.tensor_records import SketchKind, TensorRow
from modelfs.store.store import Store

# The tensors of one key that are looked up.
OLDEST: Final = 4
NEWEST: Final = 2
# The tensors with most bands in common whose samples are compared.
COMPARED_MAX: Final = 8
# The candidates returned: of exact relations, of near ones, and of aligned ones.
EXACT_MAX: Final = 4
NEAR_MAX: Final = 4
ALIGNED_MAX: Final = 8
CANDIDATES_MAX: Final = EXACT_MAX + NEAR_MAX + ALIGNED_MAX
# A tensor is near if a delta to it saves at least this part. Byte planes are read without a source,
# so a smaller saving is not worth it.
SAVING_MIN: Final = 0.03

_OFFSET = struct.Struct(">Q")


class Relation(enum.Enum):
    """How a tensor relates to its source, and so which encoder is tried."""

    EQUAL = enum.auto()  # the same bytes
    CAST = enum.auto()  # the source's values rounded, quantised, or widened
    WIDER = enum.auto()  # the reverse of CAST: the source can be derived from this tensor
    TRANSPOSE = enum.auto()  # the source with its last two axes swapped
    ALIGNED = enum.auto()  # rows of the source, all shifted by the same number of bytes
    NEAR = enum.auto()  # the same dtype, and values that differ little at the same place: a delta


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored tensor that another one may derive from. A hint: encoding shows whether it does.

    Attributes:
        relation: of the new tensor to this source.
        inode: of the source's file.
        row: the source: `row.start` is its offset in that file.
        bits: expected stored bits per scalar, without those of recipes: 0 if exact. An upper bound
            for ALIGNED, as rows without a key may be in the source, too.
        shift: of ALIGNED: byte `at` of the new tensor is byte `at + shift` of the source.
        spots: of ALIGNED: ascending byte offsets in the new tensor of rows in the source.
    """

    relation: Relation
    inode: InodeNumber
    row: TensorRow
    bits: float
    shift: int = 0
    spots: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[InodeNumber, int]:
        """The file of the source, and its offset there."""
        return self.inode, self.row.start


class ListedTensor(NamedTuple):
    """The place and tag of a tensor when it was listed."""

    inode: InodeNumber
    start: int
    tag: int


class SimilarityIndex:
    """The sketches of stored tensors. Reading is for any thread."""

    table: Final = Table.SKETCHES

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._tensors = TensorTable(store.index)

    def put(self, inode: InodeNumber, row: TensorRow, sketch: Sketch) -> None:
        """List a tensor, again if its content changed. Owner's thread, in a change of the index."""
        samples = b"" if sketch.samples is None else sketch.samples.to_bytes()
        listed = (inode, row.start, _tag(row, samples))
        for _, key in sketch.exact:
            self._index.put(Table.SKETCHES, sketch_key(SketchKind.EXACT, key, *listed), b"")
        for key in sketch.bands:
            self._index.put(Table.SKETCHES, sketch_key(SketchKind.BAND, key, *listed), b"")
        for key, offset in sketch.rows[: sketch.listed]:
            value = _OFFSET.pack(offset)
            self._index.put(Table.SKETCHES, sketch_key(SketchKind.ROW, key, *listed), value)
        if samples:
            self._index.put(Table.SKETCHES, _samples_key(inode, row.start), samples)
        else:
            self._index.delete(Table.SKETCHES, _samples_key(inode, row.start))

    def candidates(self, inode: InodeNumber, row: TensorRow, sketch: Sketch) -> list[Candidate]:
        """Return the tensors that a tensor may derive from, at most CANDIDATES_MAX.

        Exact relations come first, then near ones, then aligned ones, each by ascending bits. The
        tensor itself is not among them.
        """
        lookup = _Lookup(self, (inode, row.start), sketch)
        exact = list(lookup.exact())[:EXACT_MAX]
        near = sorted(lookup.near(), key=lambda candidate: candidate.bits)[:NEAR_MAX]
        aligned = sorted(lookup.aligned(), key=lambda candidate: candidate.bits)
        # A tensor that is exact or near has unshifted rows in common, which adds nothing.
        places = {candidate.place for candidate in (*exact, *near)}
        shifted = (
            candidate for candidate in aligned if candidate.shift or candidate.place not in places
        )
        return [*exact, *near, *islice(shifted, ALIGNED_MAX)]

    def bits_from(self, sketch: Sketch, inode: InodeNumber, row: TensorRow) -> float | None:
        """Return the expected bits per scalar of a delta to another tensor of the same dtype.

        None if one of the two has no samples.
        """
        samples = self._samples(inode, row) if sketch.samples is not None else None
        return None if samples is None else sketch.bits_from(samples)

    def _samples(self, inode: InodeNumber, row: TensorRow) -> Samples | None:
        stored = self._index.get(Table.SKETCHES, _samples_key(inode, row.start))
        if stored is None:
            return None
        try:
            return Samples.from_bytes(row.dtype, row.size // element_of(row.dtype).width, stored)
        except ValueError:
            return None

    def is_stale(self, key: bytes) -> bool:
        """Whether the tensor of a row is gone, or has another tag."""
        kind, _, inode, start, tag = sketch_fields(key)
        if kind != SketchKind.SAMPLES:
            return self.find(ListedTensor(InodeNumber(inode), start, tag)) is None
        row = self._tensors.find(InodeNumber(inode), start)
        return row is None or self._samples(InodeNumber(inode), row) is None

    def find(self, listed: ListedTensor) -> TensorRow | None:
        """Return the row of a listed tensor, None if it is gone or has another tag."""
        row = self._tensors.find(listed.inode, listed.start)
        if row is None:
            return None
        samples = self._index.get(Table.SKETCHES, _samples_key(listed.inode, listed.start))
        return row if listed.tag == _tag(row, samples or b"") else None

    def listed_under(self, kind: SketchKind, key: int) -> Iterator[tuple[ListedTensor, bytes]]:
        """Yield the oldest and the newest few tensors with a key, and the values of their rows.

        A row that does not decode is passed over: it is a hint, and gc drops it.
        """
        low = sketch_key(kind, key, 0, 0, 0)
        prefix = low[:9]
        rows = self._index.scan(Table.SKETCHES, low, prefix_end(prefix), OLDEST, damaged=set())
        if len(rows) == OLDEST:
            oldest = rows[-1][0]
            last = prefix + b"\xff" * (len(low) - len(prefix))
            for _ in range(NEWEST):
                row = self._index.floor(Table.SKETCHES, last, oldest)
                if row is None or row[0] == oldest:
                    break
                rows.append(row)
                last = (int.from_bytes(row[0], "big") - 1).to_bytes(len(last), "big")
        for row_key, value in rows:
            try:
                decode_sketch(row_key, value)
            except CorruptIndex:
                continue
            _, _, inode, start, tag = sketch_fields(row_key)
            yield ListedTensor(InodeNumber(inode), start, tag), value


class _Lookup:
    """One look-up: the tensors that have keys in common with a sketch."""

    def __init__(
        self, similarity: SimilarityIndex, place: tuple[InodeNumber, int], sketch: Sketch
    ) -> None:
        """Begin; `place` is that of the tensor itself, which is left out."""
        self._similarity = similarity
        self._place = place
        self._sketch = sketch
        self._rows: dict[ListedTensor, TensorRow | None] = {}  # looked up so far; None: stale

    def exact(self) -> Iterator[Candidate]:
        """Yield tensors with an exact key in common: EQUAL, CAST, TRANSPOSE and WIDER."""
        keys: list[tuple[str | None, int]] = [*self._sketch.exact]
        if self._sketch.transposed is not None:
            keys.insert(1, (None, self._sketch.transposed))
        seen: set[tuple[ListedTensor, Relation]] = set()
        for dtype, key in keys:
            for listed, row, _ in self._hits(SketchKind.EXACT, key):
                relation = self._relation_by(dtype, row)
                if relation is not None and (listed, relation) not in seen:
                    seen.add((listed, relation))
                    bits = self._sketch.bits if relation is Relation.WIDER else 0.0
                    yield Candidate(relation, listed.inode, row, bits)

    def _relation_by(self, key_dtype: str | None, source: TensorRow) -> Relation | None:
        """Return the relation to a tensor with an exact key of this sketch.

        Args:
            key_dtype: of the sketch's key: its own dtype, a narrower one, or None for the key of
                the transposed tensor.
            source: the tensor that has the key, too.
        """
        dtype = self._sketch.dtype
        if key_dtype is None:
            return Relation.TRANSPOSE if source.dtype == dtype else None
        if key_dtype == dtype:
            return Relation.EQUAL if source.dtype == dtype else Relation.CAST
        if key_dtype != source.dtype:
            return None  # both round to the same values of a third dtype: near at best
        return Relation.CAST if key_dtype in self._sketch.widened else Relation.WIDER

    def near(self) -> Iterator[Candidate]:
        """Yield tensors with bands in common to which a delta saves enough, by samples."""
        bands_in_common: Counter[ListedTensor] = Counter()
        for key in self._sketch.bands:
            bands_in_common.update(listed for listed, _, _ in self._hits(SketchKind.BAND, key))
        for listed, _ in bands_in_common.most_common(COMPARED_MAX):
            row = self._rows[listed]
            assert row is not None, "a hit"
            bits = self._similarity.bits_from(self._sketch, listed.inode, row)
            if bits is not None and bits <= (1 - SAVING_MIN) * self._sketch.bits:
                yield Candidate(Relation.NEAR, listed.inode, row, bits)

    def aligned(self) -> Iterator[Candidate]:
        """Yield tensors with rows in common, once for each distance of such rows."""
        spots: defaultdict[tuple[ListedTensor, int], list[int]] = defaultdict(list)
        for key, offset in self._sketch.rows:
            for listed, _, value in self._hits(SketchKind.ROW, key):
                spots[listed, _OFFSET.unpack(value)[0] - offset].append(offset)
        for (listed, shift), offsets in spots.items():
            row = self._rows[listed]
            assert row is not None, "a hit"
            bits = self._sketch.bits * (1 - len(offsets) / len(self._sketch.rows))
            in_order = tuple(sorted(set(offsets)))
            yield Candidate(Relation.ALIGNED, listed.inode, row, bits, shift, in_order)

    def _hits(self, kind: SketchKind, key: int) -> Iterator[tuple[ListedTensor, TensorRow, bytes]]:
        """Yield other tensors with a key that are not stale, and the values of their rows."""
        for listed, value in self._similarity.listed_under(kind, key):
            if (listed.inode, listed.start) == self._place:
                continue
            if listed not in self._rows:
                self._rows[listed] = self._similarity.find(listed)
            if (row := self._rows[listed]) is not None:
                yield listed, row, value


def _samples_key(inode: InodeNumber, start: int) -> bytes:
    return sketch_key(SketchKind.SAMPLES, 0, inode, start, 0)


def _tag(row: TensorRow, samples: bytes) -> int:
    head = f"{row.dtype} {row.shape} {row.size} ".encode()
    return xxhash.xxh3_64_intdigest(head + samples) & 0xFFFFFFFF
