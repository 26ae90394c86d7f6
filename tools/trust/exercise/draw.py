"""Random places, sizes and bytes, biased towards where file systems go wrong."""

import json
from bisect import bisect
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final, TypeVar

from tools.trust.exercise.content import BLOCK

Each = TypeVar("Each")

PAGE: Final = 4 << 10
REQUEST: Final = 128 << 10  # the largest request of the kernel
CHUNK: Final = 1 << 20  # the grid on which files are cut
WINDOW: Final = 64 << 20  # of staging
UNITS: Final = (PAGE, REQUEST, CHUNK)

DENSE: Final = 3 * CHUNK + 1  # most operations are below this offset
FAR: Final = 1 << 43  # ext4 has files of up to 2^44 bytes
WINDOWS: Final = 6
SIZE_MAX: Final = 2 * CHUNK + PAGE

POOL: Final = 8 << 20
HEADER_SIZE: Final = 6000  # longer than any header, which is filled with spaces
TENSOR_SIZES: Final = (4, 1000, PAGE, 100_000, CHUNK, CHUNK + 4, 2_400_000)


@cache
def pool() -> bytes:
    """Random bytes, the same in every process, so that files of several have some in common."""
    return Random("pool").randbytes(POOL)


@cache
def blocks() -> list[bytes]:
    """Return the pool in blocks, for files so long that their models have to share them."""
    return [pool()[start : start + BLOCK] for start in range(0, POOL, BLOCK)]


class Draw:
    """All random choices; the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def one(self, of: Sequence[Each]) -> Each:
        return self._random.choice(of)

    def weighted(self, of: Sequence[Each], weights: Sequence[float]) -> Each:
        return self._random.choices(of, weights)[0]

    def position(self, sums: Sequence[float]) -> int:
        """Return a position in a table with these cumulated weights."""
        return bisect(sums, self._random.random() * sums[-1])

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit`, which is not among them."""
        return self._random.randrange(limit)

    # -- where and how much

    def offset(self, end: int) -> int:
        """Return an offset in a file that has `end` bytes now, or beyond its end."""
        kind = self.weighted(("edge", "end", "any", "window", "far"), (55, 20, 18, 5, 0.5))
        match kind:
            case "edge":
                unit = self.one(UNITS)
                near = self.below(DENSE // unit + 1) * unit
            case "end":
                near = end
            case "any":
                near = self.below(DENSE)
            case "window":
                near = WINDOW * (1 + self.below(WINDOWS))
            case _:
                near = self.one((FAR, FAR // 8, FAR // 1000)) - self.below(WINDOW)
        return max(0, near + self._nudge())

    def size(self) -> int:
        """Return a number of bytes to read or write at once."""
        kind = self.weighted(("few", "page", "some", "request", "chunk"), (25, 30, 30, 12, 3))
        match kind:
            case "few":
                return 1 + self.below(200)
            case "page":
                return max(0, (1 + self.below(4)) * PAGE + self._nudge())
            case "some":
                return 1 + self.below(64 << 10)
            case "request":
                return max(0, (1 + self.below(2)) * REQUEST + self._nudge())
            case _:
                return min(SIZE_MAX, max(0, (1 + self.below(2)) * CHUNK + self._nudge()))

    def _nudge(self) -> int:
        nudge = self.one((0, 0, 0, -1, 1, None))
        return self.below(2 * PAGE) - PAGE if nudge is None else nudge

    def parts(self, size: int) -> list[int]:
        """Cut a size into a few, some of which may be 0."""
        cuts = sorted(self.below(size + 1) for _ in range(self.below(5)))
        return [stop - start for start, stop in zip([0, *cuts], [*cuts, size], strict=True)]

    # -- bytes

    def data(self, size: int) -> bytes:
        """Return bytes to write: random, repeated (so compressible), zeros, or earlier ones."""
        kind = self.weighted(("random", "repeated", "zeros", "again"), (60, 15, 10, 15))
        match kind:
            case "zeros":
                return bytes(size)
            case "repeated":
                word = self._random.randbytes(1 + self.below(40))
                return (word * (size // len(word) + 1))[:size]
            case "again":
                start = self.below(4) * CHUNK
            case _:
                start = self.below(POOL - SIZE_MAX)
        return pool()[start : start + size]

    def model(self) -> bytes:
        """Return a safetensors file, with tensors of other such files."""
        tensors: list[bytes] = []
        for _ in range(1 + self.below(6)):
            size = self.weighted(TENSOR_SIZES, (4, 4, 4, 4, 1, 1, 1))
            start = self.below(3) * CHUNK
            tensors.append(pool()[start : start + size])
        head = _head([len(tensor) for tensor in tensors], HEADER_SIZE + self.below(9))
        return b"".join([head, *tensors])

    def head(self, size: int) -> bytes:
        """Return how a safetensors file of `size` bytes begins whose tensors are long."""
        length = HEADER_SIZE + self.below(200)  # so they are not aligned to anything
        left = size - 8 - length
        sizes: list[int] = []
        while left:
            sizes.append(min(left, 5 * CHUNK + self.below(WINDOW)))
            left -= sizes[-1]
        return _head(sizes, length)


def _head(sizes: list[int], length: int) -> bytes:
    header: dict[str, object] = {}
    at = 0
    for number, size in enumerate(sizes):
        offsets = [at, at + size]
        header[f"layer.{number}"] = {"dtype": "U8", "shape": [size], "data_offsets": offsets}
        at += size
    return length.to_bytes(8, "little") + json.dumps(header).encode().ljust(length)
