"""The bounds of a chunk's form: the most memory and time that reading it may take.

A store may be damaged, or made by another program to do harm. A record of 5 stored bytes may have a
size of 2 GiB, a recipe may list the same source ten thousand times, and chunks may derive from each
other without end. All that is refused before a byte is read or any memory is taken.

Example. A store has chunks of 1 MiB. A chunk of that size is cast from 8 MiB at most; a recipe with
runs of 9 MiB is refused. A transposed tensor is made whole, so its source may have `TENSOR_MAX`.
"""

from collections.abc import Sequence
from typing import Final

from modelfs.codecs import CODECS, DERIVATIONS
from modelfs.codecs.base import CodecId
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.index.chunk_records import Chunk, ChunkKind

# Longer tensors are not transposed: each part needs the whole tensor, which has to fit the chunk
# cache beside others.
TENSOR_MAX: Final = 128 << 20
# The widest element is eight times as wide as the narrowest that it is cast to.
SOURCE_RATIO: Final = 8


def form_problem(record: Chunk, chunk_size: int) -> str | None:
    """Return a contradiction inside a chunk record, None if there is none.

    Args:
        record: of a chunk.
        chunk_size: of the store, in bytes: no chunk is larger.
    """
    if not 0 < record.size <= chunk_size:
        return f"its size is {record.size}"
    if record.is_lost:
        has_place = any((record.pack, record.offset, record.stored))
        return "it is lost, but has a place" if has_place else None
    if record.kind is ChunkKind.PLAIN:
        is_possible = record.codec is CodecId.RAW
    else:
        is_possible = record.codec in (DERIVATIONS if record.kind is ChunkKind.DERIVED else CODECS)
    if not is_possible:
        return f"a {record.kind.name} chunk with codec {record.codec.name}"
    if record.stored > record.size:
        return f"{record.size} bytes stored in {record.stored}"
    if record.kind is ChunkKind.PLAIN and record.stored != record.size:
        return f"{record.size} plain bytes stored in {record.stored}"
    return None


def check_source(record: Chunk, runs: Sequence[SourceRun]) -> None:
    """Check the length of a derived chunk's source.

    Raises:
        ValueError: it is longer than that of any chunk of this form.
    """
    size = sum(run.length for run in runs)
    most = TENSOR_MAX if record.codec is CodecId.TRANSPOSE else SOURCE_RATIO * record.size
    if size > most:
        raise ValueError(f"{record.size} bytes derived from {size}")
