"""Are all similar tensors of real models found, and are the candidates right?

    tools/run bench.recall FILE...

Takes safetensors and ONNX files in the given order, as a store would get them. Compares the
candidates of each tensor, found by content or as counterparts, with the truth: the earlier tensors
that are, byte by byte, equal to the tensor, to its cast or to its transpose; and the bits per
scalar of deltas to earlier tensors of its name and size, from 20,000 elements.

A candidate is missed if there is an exact one and none was found, or if the best delta saves 15 %
of a tensor and none nearly as good was found. It is false if it is called exact and is not, or if
its delta saves nothing. Tensors below 16 KiB are counted separately: most are found only after a
larger one of their file.
"""

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from modelfs.codecs.elements import element_of
from modelfs.formats.sniff import recognise
from modelfs.jobs.ingest.chunker import TENSOR_MIN
from modelfs.jobs.optimize.related_files import RelatedFiles
from modelfs.jobs.optimize.similarity import SAVING_MIN, Candidate, Relation, SimilarityIndex
from modelfs.sketches.samples import CASTS, coded_bits, ulps_apart
from modelfs.sketches.sketch import Sampler
from modelfs.store.create import create_store
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index import tables
from modelfs.store.index.tables import InodeNumber, tensor_key
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

COMPARED = 20_000
STEP = 1 << 20
SMALL = 16 << 10
EXACT = (Relation.EQUAL, Relation.CAST, Relation.TRANSPOSE)


@dataclass(frozen=True, slots=True)
class _Tensor:
    inode: InodeNumber
    row: TensorRow
    values: NDArray[Any]

    @property
    def digest(self) -> bytes:
        return _digest(self.row.dtype, self.values)

    @property
    def rounded(self) -> set[bytes]:
        casts = CASTS.get(self.row.dtype, {})
        return {_digest(dtype, narrow(self.values)) for dtype, (narrow, _) in casts.items()}

    @property
    def turned(self) -> set[bytes]:
        if len(self.row.shape) < 2:
            return set()
        turned = self.values.reshape(self.row.shape).swapaxes(-1, -2)
        return {_digest(self.row.dtype, np.ascontiguousarray(turned))}

    def bits_from(self, source: "_Tensor") -> float:
        count = min(len(self.values), len(source.values))
        at = np.random.default_rng(1).integers(0, count, COMPARED)
        return coded_bits(ulps_apart(self.values[at], source.values[at], self.row.dtype))


def _digest(dtype: str, values: NDArray[Any]) -> bytes:
    return dtype.encode() + xxhash.xxh3_128_digest(values.tobytes())


class _Trial:
    """The tensors so far, and the counts of right and wrong candidates."""

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._similarity = SimilarityIndex(store)
        self._related_files = RelatedFiles(self._similarity, TensorTable(store.index))
        self._tensors: dict[tuple[InodeNumber, int], _Tensor] = {}
        self._same_name: defaultdict[tuple[str, str, int], list[_Tensor]] = defaultdict(list)
        self._plain: set[bytes] = set()
        self._derived: set[bytes] = set()  # of casts and transposes of them
        self.counts: Counter[str] = Counter()
        self.errors: list[float] = []

    def add(self, tensor: _Tensor) -> None:
        """Look up the candidates of a tensor, judge them, and list the tensor."""
        row = tensor.row
        sampler = Sampler(row.dtype, row.shape, row.size)
        content = tensor.values.tobytes()
        for at in range(0, len(content), STEP):
            sampler.feed(at, content[at : at + STEP])
        with self._index.change():
            key = tensor_key(tensor.inode, row.start, 0)
            self._index.put(tables.Table.TENSORS, key, row.to_bytes())
            sketch = sampler.sketch()
            candidates = self._related_files.candidates(tensor.inode, row, sketch)
            if sketch is not None:
                self._similarity.put(tensor.inode, row, sketch)
        own = 8.0 * tensor.values.itemsize if sketch is None else sketch.bits
        self._judge(tensor, candidates, own)
        if candidates:
            self._related_files.accept(tensor.inode, candidates[0])
        self._tensors[tensor.inode, row.start] = tensor
        self._same_name[row.name, row.dtype, row.size].append(tensor)
        self._plain.add(tensor.digest)
        self._derived |= tensor.rounded | tensor.turned

    def _judge(self, tensor: _Tensor, candidates: list[Candidate], own: float) -> None:
        size = "small" if tensor.row.size < SMALL else "large"
        relations = {candidate.relation for candidate in candidates}
        is_exact = tensor.digest in self._plain | self._derived
        if tensor.rounded & self._plain:
            self._count(
                f"wider, {size}", expected=True, found=bool({*relations} & {*EXACT, Relation.WIDER})
            )
        named = self._same_name[tensor.row.name, tensor.row.dtype, tensor.row.size]
        best = min((tensor.bits_from(earlier) for earlier in named), default=own)
        near = [candidate for candidate in candidates if candidate.relation is Relation.NEAR]
        real = [tensor.bits_from(self._tensors[candidate.place]) for candidate in near]
        # A near candidate without differences counts as exact: in small tensors the two relations
        # are not distinguished.
        found = not relations.isdisjoint(EXACT) or (is_exact and 0 in real)
        self._count(f"exact, {size}", expected=is_exact, found=found)
        if size == "large":
            self.errors += [
                candidate.bits - true for candidate, true in zip(near, real, strict=True)
            ]
            self.counts["near, large: false"] += sum(true > own for true in real)
        if not is_exact:
            expected = best <= (1 - SAVING_MIN) * own
            good = min(real, default=own) <= 1.1 * best + 1
            self._count(f"near, {size}", expected=expected, found=good)

    def _count(self, kind: str, *, expected: bool, found: bool) -> None:
        if expected:
            self.counts[f"{kind}: {'found' if found else 'missed'}"] += 1
        elif found and kind.startswith("exact"):
            self.counts[f"{kind}: false"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.recall", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory(prefix="bench-recall-") as folder:
        place = Path(folder) / "store"
        create_store(place)
        with Store(place) as store:
            trial = _Trial(store)
            for number, path in enumerate(files, 1):
                for tensor in _tensors(path, InodeNumber(number)):
                    trial.add(tensor)
                store.index.commit()
            size = store.index.file.used()
    _show(trial, size, sum(path.stat().st_size for path in files))
    wrong = [f"{kind}, large: missed" for kind in ("exact", "wider", "near")]
    wrong += ["exact, large: false", "near, large: false"]
    return 1 if any(trial.counts[kind] for kind in wrong) else 0


def _tensors(path: Path, inode: InodeNumber) -> Iterator[_Tensor]:
    content = np.memmap(path, np.uint8, "r")
    layout = recognise(lambda offset, size: content[offset : offset + size].tobytes(), len(content))
    for span in layout.spans:
        width = element_of(span.dtype).width
        if span.size >= TENSOR_MIN and span.size % width == 0:
            row = TensorRow(span.start, span.size, span.dtype, span.shape, span.name)
            values = np.frombuffer(content[span.start : span.stop].tobytes(), f"<u{width}")
            yield _Tensor(inode, row, values)


def _show(trial: _Trial, index: int, size: int) -> None:
    table = Table("candidates", "tensors")
    for kind, count in sorted(trial.counts.items()):
        table.add_row(kind, f"{count:,}")
    if trial.errors:
        low, middle, high = np.percentile(trial.errors, (5, 50, 95))
        table.add_row(
            "estimate less truth, bits (5, 50, 95 %)", f"{low:.1f} {middle:.1f} {high:.1f}"
        )
    table.add_row("index", f"{index:,} bytes, {index / size:.2%} of the files")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
