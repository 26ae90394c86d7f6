"""Recipes: what is stored of a chunk that is derived from others.

A recipe names runs of other chunks' content, its *sources*. Put together in their order, they are
what the chunk's codec makes the content from, with the help of a payload. So a chunk can be derived
from any stretch of a tensor, however that is cut.

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
    """A run of a chunk's content."""

    chunk: ChunkId
    skip: int  # bytes of the chunk before it
    length: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a chunk's content from that of others."""

    runs: tuple[SourceRun, ...]
    payload: bytes

    @property
    def sources(self) -> tuple[ChunkId, ...]:
        """The chunks that it needs, each once."""
        return tuple(dict.fromkeys(run.chunk for run in self.runs))

    def to_bytes(self) -> bytes:
        runs = b"".join(_RUN.pack(*run) for run in self.runs)
        return _COUNT.pack(len(self.runs)) + runs + self.payload

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Decode the stored bytes of a derived chunk.

        Raises:
            ValueError: they are no recipe.
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
    found: list[SourceRun] = []
    for run in runs:
        if found and found[-1].chunk == run.chunk and found[-1].skip + found[-1].length == run.skip:
            last = found.pop()
            found.append(SourceRun(last.chunk, last.skip, last.length + run.length))
        else:
            found.append(run)
    return tuple(found)
