"""Copying chunks to a new pack: those in unsafe places, and those to be stored plain."""

import contextlib
import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptData
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.evidence import Evidence
from modelfs.jobs.repair.pack_files import read_segment_tables
from modelfs.store.index.chunk_records import Chunk, ChunkKind, PackRow
from modelfs.store.index.counters import NEXT_PACK
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key

# Above all numbers that packs have. A damaged row may have any number.
PACK_END: Final = 1 << 62


def relocate(
    context: RepairContext,
    evidence: Evidence,
    chunks: Mapping[ChunkId, Chunk],
    plain: Collection[ChunkId],
) -> None:
    """Copy chunks to a new pack, durably, and put their records and the pack's row into the index.

    Args:
        context: of the round.
        evidence: gets the new pack's tables.
        chunks: copied in their stored form, in the order of their places; not those of `plain`.
        plain: chunks that can be read; their content is stored plain.
    """
    if not chunks and not plain:
        return
    store = context.store
    numbers = [pack for pack in evidence.packs if pack < PACK_END]
    following = max([store.counters.get(NEXT_PACK) - 1, *numbers]) + 1
    store.packs.open_at(None, PackId(following))
    writer = store.writer()
    for chunk, record in sorted(chunks.items(), key=lambda item: item[1].place):
        if chunk not in plain:
            writer.copy(chunk, record, store.stored_bytes.read(chunk, record))
    for chunk in sorted(plain):
        record = store.chunks.record(chunk)
        as_plain = dataclasses.replace(record, kind=ChunkKind.PLAIN, codec=CodecId.RAW)
        with contextlib.suppress(CorruptData):  # a source was lost since: left to the next round
            writer.copy(chunk, as_plain, store.chunk_reader.read_uncached(chunk, record))
    written = writer.finish()
    for chunk, record in written.moved.items():
        context.put_chunk(chunk, record)
    for tail in written.tails:
        context.index.put(Table.PACKS, number_key(tail.pack), PackRow(tail.stop, 0).to_bytes())
        store.counters.set(NEXT_PACK, tail.pack + 1)
        evidence.packs[tail.pack] = read_segment_tables(store.packs, tail.pack)
    context.repaired(f"chunks copied to a new pack: {len(written.moved)}")
