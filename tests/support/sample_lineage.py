"""The derived chunks of a sample, and damage to them."""

import dataclasses

from modelfs.store.index.tables import ChunkId, PackId
from tests.support.derived_chunks import held
from tests.support.run_jobs import collect_dead
from tests.support.sample_store import BOTTOM, PACK, TOP, Sample
from tests.support.stores import overwrite, pack_path


class Kin:
    """The chunks of a sample that derive from others, and those others."""

    def __init__(self, sample: Sample) -> None:
        self.bottom = self._of(sample, BOTTOM)[1]
        self.derived, self.orphan = self._of(sample, TOP)[2:]
        (self.held,) = held(sample.store)

    def _of(self, sample: Sample, path: bytes) -> list[ChunkId]:
        return [each.chunk for each in sample.extents(sample.inode(path[1:]))]


def change(sample: Sample, chunk: ChunkId, **fields: object) -> None:
    record = sample.store.chunks.record(chunk)
    sample.put_chunk(chunk, dataclasses.replace(record, **fields))  # type: ignore[arg-type]


def spoil(sample: Sample, chunk: ChunkId) -> None:
    record = sample.store.chunks.record(chunk)
    overwrite(pack_path(sample.store.packs, record.pack), record.offset, b"damaged")


def collect_plain_copies(sample: Sample) -> PackId:
    """Move everything to a new pack, so that no chunk has a copy of an older form; return it."""
    collect_dead(sample.store, live_min=2)
    (pack,) = sample.store.packs.numbers()
    assert pack != PACK
    return pack
