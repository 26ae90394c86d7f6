"""Rebase: re-encode the chunks that derive from base-only chunks, which gc then frees.

Theory of operation. A base-only chunk takes room for its dependants alone. To store these without
it may take more: of a base whose only fine-tune is a small delta, either the base stays or the
fine-tune is stored by itself, which is as large. So the sizes decide. Base-only chunks that share a
dependant can go only together: they are a *group*, with all chunks in use that derive from any of
them. The new forms of these are encoded first, and replace the old ones only if they take fewer
bytes than the old forms and the base-only chunks do. Otherwise the group is *kept*: its rows in the
index have a mark, and no run tries a chunk of it before it has more or fewer dependants.

Example. base.safetensors was removed. Its chunk 3 has no references, but the chunks 7, 8 and 9 of
three fine-tunes are deltas to it: it is base-only. Chunk 7 gets a standalone form, and 8 and 9
become deltas to 7::

    chunk       old form             new form
    3           800 KiB, base-only   none
    7           100 KiB, delta to 3  800 KiB
    8, 9        100 KiB, delta to 3  120 KiB, delta to 7

That is 1,040 KiB in place of 1,100 KiB. Then no chunk derives from chunk 3, so it is dead. With
140 KiB for each of the deltas to 7, chunk 3 would be kept.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element
from modelfs.errors import CorruptData
from modelfs.jobs.optimize.batch import Batch, BatchOutput, Target
from modelfs.jobs.optimize.encoders import delta_form
from modelfs.jobs.optimize.forms import Form, smallest_form
from modelfs.store.chunks.lineage import VISITED_MAX, Depth
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import eio_as_corruption
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# The bytes of a group's new forms that are in memory until all are measured. Further ones are
# encoded twice.
MEASURED_MAX: Final = 64 << 20


@dataclass(slots=True)
class _Group:
    """Base-only chunks that can only go together, and the chunks in use that derive from them."""

    bases: dict[ChunkId, Chunk] = field(default_factory=dict)
    dependants: dict[ChunkId, Chunk] = field(default_factory=dict)

    @property
    def stored(self) -> int:
        """Bytes of all of them."""
        records = (*self.bases.values(), *self.dependants.values())
        return sum(record.stored for record in records)


class _Measured(BatchOutput):
    """Counts bytes in place of appending forms."""

    def __init__(self, store: Store) -> None:
        super().__init__(Batch(), store.writer())
        self.kept: set[ChunkId] = set()
        self.growth = 0  # bytes of the new forms, less those of the old ones

    def put(self, target: Target, form: Form, element: Element) -> None:
        self.growth += len(form.stored) - target.record.stored

    def keep(self, bases: Mapping[ChunkId, Chunk]) -> None:
        self.kept.update(bases)


def measure_bases(store: Store, depth: int) -> tuple[int, int]:
    """Return how many base-only chunks a collection frees, and the stored bytes that this gains.

    Any thread. Encodes their dependants, as a collection does, and writes nothing.
    """
    output = _Measured(store)
    rebaser = Rebaser(store.chunks, store.chunk_reader, depth, output, lambda: False)
    count = size = 0
    for base, _ in store.base_only.chunks(with_kept=False):
        tried, damaged = set(rebaser.tried), output.damaged
        rebaser.rebase(base)
        group = rebaser.tried - tried - output.kept
        if damaged == output.damaged:
            count += len(group)
            size += sum(store.chunks.record(chunk).stored for chunk in group)
    return count, max(0, size - output.growth)


class Rebaser:
    """Rebases the base-only chunks of one batch. Any thread."""

    def __init__(
        self,
        chunks: ChunkTable,
        reader: ChunkReader,
        depth: int,
        output: BatchOutput,
        is_stopped: Callable[[], bool],
    ) -> None:
        """Begin a batch; `depth` as in `Lineage.may_derive`."""
        self._chunks = chunks
        self._reader = reader
        self._depth = depth
        self._output = output
        self._is_stopped = is_stopped
        self.tried: set[ChunkId] = set()  # base-only chunks of the groups so far

    def rebase(self, base: ChunkId) -> None:
        """Append the dependants of a base-only chunk's group in forms that do not need it.

        Without a gain, or with a dependant that cannot be read, nothing is appended.

        Raises:
            OSError: the disk is full or failed.
        """
        if base in self.tried:
            return
        try:
            group = self._group_of(base)
            self.tried.update(group.bases)
            if len(group.bases) + len(group.dependants) > VISITED_MAX:
                self._output.keep(group.bases)
                return
            claimed = sum(self._output.claim(chunk) for chunk in group.dependants)
            # Fewer: the group has changed since another one of this batch was read.
            if claimed == len(group.dependants):
                self._encode(group)
        except CorruptData as exc:
            log.error("chunk %d is kept for chunks that cannot be re-encoded: %s", base, exc)
            self._output.damaged += 1

    def _group_of(self, base: ChunkId) -> _Group:
        """Return the group of a base-only chunk, or the first of its chunks if they are too many.

        Chunks that neither a file nor another chunk needs are left out: gc removes them.
        """
        group = _Group()
        found = [base]
        while found and len(group.bases) + len(group.dependants) <= VISITED_MAX:
            chunk = found.pop()
            if chunk in group.bases or chunk in group.dependants:
                continue
            record = self._chunks.record(chunk)
            if record.base_only:
                group.bases[chunk] = record
                found += self._chunks.lineage.dependants(chunk)
            elif record.refs:
                group.dependants[chunk] = record
            else:
                continue
            sources = self._chunks.lineage.sources(chunk)
            found += [source for source in sources if self._chunks.record(source).base_only]
        return group

    def _encode(self, group: _Group) -> None:
        """Append the new forms of a group's dependants if they take less than the group does.

        The first dependant of each element type and size gets a standalone form, and is the base of
        the others with the same sources: chunks that had a base in common are similar.
        """
        new_bases: dict[ChunkId, ChunkId | None] = {}  # by dependant
        first: dict[tuple[object, ...], ChunkId] = {}  # by sources, element code and size
        measured: dict[ChunkId, Form] = {}
        size = held = 0
        for chunk, record in group.dependants.items():
            if self._is_stopped():
                return
            key = (*self._chunks.lineage.sources(chunk), record.element, record.size)
            new_bases[chunk] = first.get(key)
            form = self._new_form(chunk, record, new_bases[chunk])
            if not form.is_derived:
                first.setdefault(key, chunk)
            size += len(form.stored)
            if size >= group.stored:
                self._output.keep(group.bases)
                return
            if held + len(form.stored) <= MEASURED_MAX:
                held += len(form.stored)
                measured[chunk] = form
        for chunk, record in group.dependants.items():
            if self._is_stopped():
                return  # the next run decides about the rest of the group
            new = measured.get(chunk) or self._new_form(chunk, record, new_bases[chunk])
            self._output.put(Target(chunk, record, 0), new, Element.from_code(record.element))

    def _new_form(self, chunk: ChunkId, record: Chunk, base: ChunkId | None) -> Form:
        """Return the smaller of a chunk's standalone form and its delta to `base`, if that fits."""
        element = Element.from_code(record.element)
        lineage, find = self._chunks.lineage, self._chunks.find
        delta = None
        with eio_as_corruption():
            content = self._reader.read(chunk, record)
            if base is not None and lineage.may_have_depth(
                chunk, Depth().derived(CodecId.DELTA), find, self._depth
            ):
                values = self._reader.read_current(base)
                delta = delta_form(content, element, [SourceRun(base, 0, len(values))], values)
        return smallest_form(content, element, delta=delta)
