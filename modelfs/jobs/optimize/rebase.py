"""Rebase: re-encode the chunks that derive from base-only chunks, which gc then frees.

Example. base.safetensors was removed. Its chunk 3 has no references, but the chunks 7, 8 and 9 of
three fine-tunes are deltas to it: it is base-only. Chunk 7 gets a standalone form, and 8 and 9
become deltas to 7. Then no chunk derives from chunk 3, so it is dead. Had chunk 3 100 dependants,
and deltas to chunk 7 were larger than those to chunk 3, it might be worth keeping.
"""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Final

from modelfs.codecs.elements import Element
from modelfs.errors import CorruptData
from modelfs.jobs.optimize.batch import BatchOutput, Target
from modelfs.jobs.optimize.encoders import delta_form
from modelfs.jobs.optimize.forms import Form, smallest_form
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import eio_as_corruption

log = logging.getLogger(__name__)


# Whether a base is worth keeping is decided by so many dependants: their new forms are in memory.
SAMPLE: Final = 32
# Without a base, its dependants take more room, by at most this many times that of the base. It was
# removed, so it goes even if that gains nothing, unless the store would grow without a bound.
GROWTH_MAX: Final = 2

NewForm = tuple[Target, Form, Element]


def rebase_dependants(
    chunks: ChunkTable, reader: ChunkReader, base: ChunkId, output: BatchOutput
) -> None:
    """Append the dependants of a base-only chunk in forms that do not need it. Any thread.

    If these forms take much more room than the base, it is worth keeping: nothing is appended.

    Raises:
        OSError: the disk is full or failed.
    """
    record = chunks.find(base)
    if record is None or not record.base_only:
        return
    forms = _new_forms(chunks, reader, base, output)
    sample = list(islice(forms, SAMPLE))
    growth = [
        (len(form.stored) - target.record.stored) / len(chunks.lineage.sources(target.chunk))
        for target, form, _ in sample
    ]
    rest = max(0, record.dependants - len(sample))
    # The first one became a base, and is no measure for the rest.
    mean = sum(growth[1:]) / max(1, len(growth) - 1)
    if sum(growth) + rest * mean > GROWTH_MAX * record.stored:
        output.worth_keeping[base] = record.dependants
        return
    for target, form, element in (*sample, *forms):
        output.put(target, form, element)


def _new_forms(
    chunks: ChunkTable, reader: ChunkReader, base: ChunkId, output: BatchOutput
) -> Iterator[NewForm]:
    """Yield forms of a chunk's dependants that do not need it.

    The first dependant of each element type and size becomes a standalone form, and the base of the
    others: chunks that had a base in common are similar.
    """
    new_bases: dict[tuple[int, int], tuple[ChunkId, bytes]] = {}  # by element code and size
    for chunk in list(chunks.lineage.dependants(base)):
        try:
            record = chunks.record(chunk)
            if not record.refs or record.is_lost or not output.claim(chunk):
                continue  # a base-only dependant goes when its own dependants are rebased
            with eio_as_corruption():
                content = reader.read(chunk, record)
        except CorruptData as exc:
            log.error(
                "chunk %d is kept for chunk %d, which cannot be re-encoded: %s", base, chunk, exc
            )
            output.damaged += 1
            continue
        element = Element.from_code(record.element)
        delta = None
        if (new_base := new_bases.get((record.element, record.size))) is not None:
            source, values = new_base
            delta = delta_form(content, element, [SourceRun(source, 0, len(values))], values)
        form = smallest_form(content, element, delta=delta)
        if not form.is_derived:
            new_bases.setdefault((record.element, record.size), (chunk, content))
        yield Target(chunk, record, 0), form, element
