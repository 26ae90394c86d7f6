"""Recipes: the stored form of a derived chunk.

A recipe lists runs of other chunks' content, its *sources*. The chunk's codec makes the content
from the joined runs and a payload. So a chunk can be derived from any part of a tensor, however
that is cut into chunks.

Example. A tensor of 3 MB is cut into chunks 11, 12 and 13 of 1 MB each. Chunk 20 is a delta to its
bytes 500,000 to 1,500,000: its runs are (11, skip 500,000, length 500,000) and (12, skip 0, length
500,000), and its payload is the coded difference.

Recipe, little-endian::

    offset  type      field
    0       u32       count    of runs, at least 1
    4       run 16 each        u64 chunk, u32 skip (bytes of it before the run), u32 length
    then the codec's payload
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from modelfs.store.index.tables import ChunkId

_COUNT: Final = struct.Struct("<I")
_RUN: Final = struct.Struct("<QII")


class SourceRun(NamedTuple):
    """A run of bytes of one chunk's content."""

    chunk: ChunkId
    skip: int  # bytes of the chunk before it
    length: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """The source runs of a derived chunk, and the payload for its codec."""

    runs: tuple[SourceRun, ...]
    payload: bytes

    @property
    def sources(self) -> tuple[ChunkId, ...]:
        """The chunks of the runs, each once, in order."""
        return tuple(dict.fromkeys(run.chunk for run in self.runs))

    def to_bytes(self) -> bytes:
        runs = b"".join(_RUN.pack(*run) for run in self.runs)
        return _COUNT.pack(len(self.runs)) + runs + self.payload

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Decode the stored bytes of a derived chunk.

        Raises:
            ValueError: the bytes are no recipe.
        """
        if len(stored) < _COUNT.size:
            raise ValueError(f"a recipe of {len(stored)} bytes")
        (count,) = _COUNT.unpack_from(stored)
        stop = _COUNT.size + count * _RUN.size
        if not count or stop > len(stored):
            raise ValueError(f"a recipe of {count} runs in {len(stored)} bytes")
        fields = _RUN.iter_unpack(memoryview(stored)[_COUNT.size : stop])
        runs = tuple(SourceRun(ChunkId(chunk), skip, length) for chunk, skip, length in fields)
        return cls(runs, stored[stop:])


def joined(runs: Sequence[SourceRun]) -> tuple[SourceRun, ...]:
    """Return the same bytes in as few runs as possible."""
    fewest: list[SourceRun] = []
    for run in runs:
        last = fewest[-1] if fewest else None
        if last and last.chunk == run.chunk and last.skip + last.length == run.skip:
            fewest[-1] = SourceRun(last.chunk, last.skip, last.length + run.length)
        else:
            fewest.append(run)
    return tuple(fewest)
