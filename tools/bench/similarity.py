"""Does finding similar tensors cost the same with any number of stored tensors?

Lists tensors of one shape in a store's index, unrelated ones and then fine-tunes of one base, and
looks up new ones after 100, 1,000 and 10,000. Prints medians in microseconds, and the number of
look-ups with the right result: candidates or none. Sketches are made before, from content that is
never stored, and are not timed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.sketches.sketch import Sampler, Sketch
from modelfs.store.create import create_store
from modelfs.store.index import tables
from modelfs.store.index.tables import InodeNumber, tensor_key
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

SHAPE = (512, 512)
STEPS = (100, 1000, 10_000)
LOOKUPS = 100
Values = NDArray[np.float32]


def main() -> int:
    options = _options()
    table = Table("stored", "look-up", "95 %", "registration", "index", "right")
    wrong = 0
    for kind, values in (("unrelated", _unrelated), ("fine-tunes of one", _fine_tunes)):
        with _empty() as rig:
            for step in (count for count in STEPS if count <= options.tensors):
                row = _measure(rig, values, step, related=kind != "unrelated")
                wrong += row.wrong
                table.add_row(f"{step:,} {kind}", *row.cells())
    Console().print(table)
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.similarity", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--tensors", type=int, default=10_000, help="at most; default: 10,000")
    return parser.parse_args()


class _Rig:
    """The index of a store with listed tensors, and their number."""

    def __init__(self, store: Store) -> None:
        self.index = store.index
        self.similarity = SimilarityIndex(store)
        self.count = 0

    def register(self, sketch: Sketch) -> float:
        """List a tensor, and return the seconds that it took."""
        self.count += 1
        row = TensorRow(0, 4 * SHAPE[0] * SHAPE[1], "F32", SHAPE, f"w{self.count}")
        inode = InodeNumber(self.count)
        with self.index.change():
            self.index.put(tables.Table.TENSORS, tensor_key(inode, 0, 0), row.to_bytes())
            start = time.perf_counter()
            self.similarity.put(inode, row, sketch)
            return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class _Result:
    lookups: list[float]
    registrations: list[float]
    index: int
    wrong: int

    def cells(self) -> list[str]:
        right = len(self.lookups) - self.wrong
        return [
            f"{statistics.median(self.lookups) * 1e6:,.0f} us",
            f"{np.percentile(self.lookups, 95) * 1e6:,.0f} us",
            f"{statistics.median(self.registrations) * 1e6:,.0f} us",
            f"{self.index:,} B each",
            f"{right} of {len(self.lookups)}",
        ]


@contextmanager
def _empty() -> Iterator[_Rig]:
    with tempfile.TemporaryDirectory(prefix="bench-similarity-") as folder:
        path = Path(folder) / "store"
        create_store(path)
        with Store(path) as store:
            yield _Rig(store)


def _measure(rig: _Rig, values: Callable[[int], Values], step: int, *, related: bool) -> _Result:
    registrations = [rig.register(_sketch(values(number))) for number in range(rig.count, step)]
    rig.index.commit()
    lookups: list[float] = []
    wrong = 0
    for number in range(LOOKUPS):
        sketch = _sketch(values(STEPS[-1] + number))
        row = TensorRow(0, 4 * SHAPE[0] * SHAPE[1], "F32", SHAPE, "new")
        start = time.perf_counter()
        candidates = rig.similarity.candidates(InodeNumber(1 << 40), row, sketch)
        lookups.append(time.perf_counter() - start)
        wrong += bool(candidates) != related
    return _Result(lookups, registrations, rig.index.file.used() // rig.count, wrong)


def _sketch(values: Values) -> Sketch:
    sampler = Sampler("F32", values.shape, values.nbytes)
    sampler.feed(0, values.tobytes())
    sketch = sampler.sketch()
    assert sketch is not None, "large enough"
    return sketch


def _unrelated(seed: int) -> Values:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32) / np.float32(20)


BASE = _unrelated(1 << 40)


def _fine_tunes(seed: int) -> Values:
    return BASE + _unrelated(seed) / np.float32(100) if seed else BASE


if __name__ == "__main__":
    sys.exit(main())
