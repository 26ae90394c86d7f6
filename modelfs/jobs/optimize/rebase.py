"""Letting go of held chunks: those that no file uses, and that others derive from."""

import logging

from modelfs.codecs.elements import Element
from modelfs.errors import CorruptData
from modelfs.jobs.optimize.batch import BatchOutput, Target
from modelfs.jobs.optimize.encoders import difference
from modelfs.jobs.optimize.forms import Form, near_or_alone
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import eio_as_corruption

log = logging.getLogger(__name__)

_Kind = tuple[int, int]  # element and size


class Rebaser:
    """Writes anew what derives from held chunks. Any thread."""

    def __init__(self, chunks: ChunkTable, reader: ChunkReader) -> None:
        self._chunks = chunks
        self._reader = reader

    def rebase(self, output: BatchOutput, base: ChunkId) -> None:
        """Append what derives from a chunk in forms that do not need it.

        The first of a kind is stored by itself, and is what the others are tried as deltas to: what
        had a base in common is alike.

        Raises:
            OSError: the disk is full or failed.
        """
        bases: dict[_Kind, tuple[ChunkId, bytes]] = {}
        for chunk in list(self._chunks.lineage.dependants(base)):
            try:
                record = self._chunks.record(chunk)
                if not record.refs or record.is_lost or not output.claim(chunk):
                    continue  # one that is held itself goes when nothing derives from it any more
                with eio_as_corruption():
                    content = self._reader.read(chunk, record)
            except CorruptData as exc:
                log.error("chunk %d cannot be let go: %s", base, exc)
                output.damaged += 1
                continue
            kind = record.element, record.size
            form = _form(content, record, bases.get(kind))
            if not form.is_derived:
                bases.setdefault(kind, (chunk, content))
            element = Element.from_code(record.element)
            output.put(Target(chunk, record, 0), form, element)


def _form(content: bytes, record: Chunk, base: tuple[ChunkId, bytes] | None) -> Form:
    element = Element.from_code(record.element)
    near = None
    if base is not None:
        chunk, values = base
        near = difference(content, element, [SourceRun(chunk, 0, len(values))], values)
    return near_or_alone(near, content, element)
