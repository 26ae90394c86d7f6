"""The files and tensors that damaged chunks affect, directly and by way of derived chunks.

Example. Chunk 1 lies in `/a`; chunk 2, which derives from it, in `/b` and `/c`. The stored bytes of
chunk 1 are damaged::

    impacts(view, [1])    {1: Impact(files=/a /b /c, derived=1, base="/a: weight")}
    chunk_finding(...)    one finding with these files, whose message ends in
                          "; chunks that derive from it: 1; it is in /a: weight"

Chunk 2 has no finding: its own bytes, a recipe, are intact.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.view import CheckView
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import ChunkId, Table, number_of


@dataclass(slots=True)
class Impact:
    """The files and tensors that use a damaged chunk, or one that derives from it."""

    files: dict[bytes, None] = field(default_factory=dict)
    tensors: dict[str, None] = field(default_factory=dict)
    derived: int = 0  # number of chunks that derive from it
    base: str = ""  # a file, and a tensor, that use the chunk itself

    def add(self, path: bytes, tensors: Iterable[str], *, directly: bool) -> None:
        """Add a file and its affected tensors; `directly` if it uses the damaged chunk itself."""
        names = dict.fromkeys(tensors)
        self.files[path] = None
        self.tensors |= names
        if directly and not self.base:
            self.base = ": ".join([os.fsdecode(path), *list(names)[:1]])

    @property
    def suffix(self) -> str:
        """The end of a message about the chunk: the number of derived chunks, and its own file."""
        if not self.derived:
            return ""
        return f"; chunks that derive from it: {self.derived}; it is in {self.base or 'no file'}"


@dataclass(slots=True)
class KnownLoss:
    """Lost chunks, and staged bytes that the disk has lost."""

    chunks: int = 0
    bytes: int = 0  # of files: staged, in lost chunks, or in chunks that derive from them
    impact: Impact = field(default_factory=Impact)


def impacts(view: CheckView, chunks: Collection[ChunkId]) -> dict[ChunkId, Impact]:
    """Return the impact of each of these chunks.

    Costs a walk over all extents.
    """
    by_chunk = {chunk: Impact() for chunk in chunks}
    causes: dict[ChunkId, list[ChunkId]] = {chunk: [chunk] for chunk in chunks}
    for base, impact in by_chunk.items():
        for chunk in view.store.chunks.lineage.descendants(base):
            impact.derived += 1
            causes.setdefault(chunk, []).append(base)
    for inode, extent in view.extents():
        if (bases := causes.get(extent.chunk)) is not None:
            path = view.path(inode)
            tensors = list(view.tensors(inode, extent.start, extent.stop))
            for base in bases:
                by_chunk[base].add(path, tensors, directly=extent.chunk == base)
    return by_chunk


def known_loss(view: CheckView) -> KnownLoss:
    """Return the loss that stays until good copies of the files come.

    Costs as much as `impacts` if there is a lost chunk.
    """
    lost = {chunk for chunk, record in view.chunks() if record.is_lost}
    unreadable = lost.union(*map(view.store.chunks.lineage.descendants, lost))
    records = filter(None, map(view.chunk, unreadable))
    loss = KnownLoss(len(lost), sum(record.ref_bytes for record in records))
    for impact in impacts(view, lost).values() if lost else ():
        loss.impact.files |= impact.files
        loss.impact.tensors |= impact.tensors
    for key, row in view.rows(Table.LOST, WindowRanges.from_row):
        inode = number_of(key)
        loss.bytes += row.ranges.size
        for start, stop in row.ranges:
            loss.impact.add(view.path(inode), view.tensors(inode, start, stop), directly=True)
    return loss


def chunk_finding(
    view: CheckView, invariant: str, message: str, chunks: Collection[ChunkId]
) -> Finding:
    """Return one finding about damaged chunks, with the files and tensors that they affect."""
    by_chunk = impacts(view, chunks).values()
    files = dict.fromkeys(path for impact in by_chunk for path in impact.files)
    tensors = dict.fromkeys(name for impact in by_chunk for name in impact.tensors)
    suffix = "".join(impact.suffix for impact in by_chunk) if len(chunks) == 1 else ""
    return Finding(invariant, message + suffix, tuple(files), tuple(tensors))


def chunk_findings(
    view: CheckView, invariant: str, problems: Mapping[ChunkId, str]
) -> Iterator[Finding]:
    """Yield a finding for each damaged chunk, with the files and tensors that it affects."""
    by_chunk = impacts(view, problems) if problems else {}
    for chunk, problem in problems.items():
        impact = by_chunk[chunk]
        message = problem + impact.suffix
        yield Finding(invariant, message, tuple(impact.files), tuple(impact.tensors))
