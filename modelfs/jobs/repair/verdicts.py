"""Verdicts on the suspects: which of their candidates is intact, if there is one.

A derived chunk is read through its sources, so its verdict waits for theirs. The records of the
suspects are hidden from the index until they have a verdict, so that no chunk is read through a
record in doubt. `RULES` are tried in their order, the strongest evidence first. A rule that has
given a verdict or added a suspect begins the next turn, until every suspect has a verdict:

1. A suspect gets the verdict of its first candidate that is not bad. If that is derived from a
   hidden chunk, the suspect *waits*; a later candidate that is intact is noted.
2. If all suspects wait, those with such a later candidate get it.
3. A source that cannot be read becomes a suspect, even if its record seemed right.
4. A source without a record is intact, and so is the suspect that waits for it, if the suspect's
   content comes out right with a stored copy of the source.
5. If the sources of a suspect have verdicts, and it still waits, they are lost. Its recipe is
   believed if it has the checksum of the suspect's record: then the suspect can be read again when
   the source can. If not, or if no record of the source is left, the suspect is lost.
6. Suspects that wait for each other form a circle, and one of them is lost.

Example. Chunk 2 derives from 1, and 3 from 2. Pack 1, which has them all, has lost its header, and
the bytes of chunk 1 are damaged::

    suspects     1, 2, 3                 all chunks of the pack
    rule 1       1: Bad                  no candidate has its checksum
                 2: Needs(1)             its recipe is intact, but 1 is hidden
                 3: Needs(2)
    rule 5       2: Needs(1), for good   1 is lost, and the record of 2 has the recipe's checksum
    rule 1       3: Needs(1)             it is read through 2 now, which needs 1
    rule 5       3: Needs(1), for good
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptData
from modelfs.jobs.repair.evidence import (
    Bad,
    Evidence,
    Intact,
    Needs,
    Verdict,
    candidates,
    verdict,
    with_hashes,
)
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId, Table, number_key


def resolve(evidence: Evidence, suspects: Iterable[ChunkId]) -> dict[ChunkId, Verdict]:
    """Return the verdict on each suspect, and on each source that became one.

    `Needs` is the verdict on a recipe that is believed although its source is lost. The index is as
    before when this returns.
    """
    docket = _Docket(evidence)
    try:
        docket.add(suspects)
        while docket.pending:
            any(rule(docket) for rule in RULES)  # up to the first that changes something
        return docket.verdicts
    finally:
        docket.restore_rows()


@dataclass(slots=True)
class _Docket:
    """The suspects of one `resolve`, and their verdicts so far."""

    evidence: Evidence
    rows: dict[ChunkId, bytes | None] = field(default_factory=dict)  # of the index, before
    records: dict[ChunkId, Chunk | None] = field(default_factory=dict)  # in these rows
    verdicts: dict[ChunkId, Verdict] = field(default_factory=dict)
    # Of the suspects that wait: the candidates before the first intact one, and that one.
    needs: dict[ChunkId, list[Needs]] = field(default_factory=dict)
    later: dict[ChunkId, Intact] = field(default_factory=dict)

    @property
    def pending(self) -> list[ChunkId]:
        return [chunk for chunk in self.records if chunk not in self.verdicts]

    def add(self, chunks: Iterable[ChunkId]) -> None:
        store = self.evidence.store
        for chunk in chunks:
            self.rows[chunk] = store.index.get(Table.CHUNKS, number_key(chunk))
            self.records[chunk] = store.chunks.find(chunk)
            self.hide(chunk)

    def decide(self, chunk: ChunkId, verdict: Verdict) -> None:
        self.verdicts[chunk] = verdict
        if not isinstance(verdict, Bad):
            self.show(chunk, verdict.record)

    def hide(self, chunk: ChunkId) -> None:
        """Remove the record of a suspect from the index, so that no chunk is read through it."""
        self._put_row(chunk, None)

    def show(self, chunk: ChunkId, record: Chunk) -> None:
        """Let a suspect be read by a record."""
        self._put_row(chunk, record.to_bytes())

    def restore_rows(self) -> None:
        for chunk, row in self.rows.items():
            self._put_row(chunk, row)

    def _put_row(self, chunk: ChunkId, row: bytes | None) -> None:
        store = self.evidence.store
        if row is None:
            store.index.delete(Table.CHUNKS, number_key(chunk))
        else:
            store.index.put(Table.CHUNKS, number_key(chunk), row)
        # Chunks and transposed tensors that derive from it are decoded again.
        store.chunk_reader.forget_all()

    def has_no_record(self, chunk: ChunkId) -> bool:
        """Whether a suspect had no record, and has no intact candidate so far."""
        had_none = chunk in self.records and self.records[chunk] is None
        return had_none and not isinstance(self.verdicts.get(chunk), Intact)

    def is_lost(self, chunk: ChunkId) -> bool:
        """Whether the index has a record of a chunk as lost, or will have one."""
        if chunk not in self.records:
            record = self.evidence.store.chunks.find(chunk)
            return record is not None and record.is_lost
        record = self.records[chunk]
        return (
            isinstance(self.verdicts.get(chunk), Bad)
            and record is not None
            and self.evidence.form_problem(record.as_lost()) is None
        )


# -- the rules: each returns whether it gave a verdict, or added a suspect


def _judge_candidates(docket: _Docket) -> bool:
    """Decide the suspects whose first candidate that is not bad is intact, or that have none."""
    pending = docket.pending
    docket.needs, docket.later = {}, {}
    for chunk in pending:
        record = docket.records[chunk]
        for candidate in candidates(docket.evidence, chunk, record):
            outcome = verdict(docket.evidence, chunk, record, candidate)
            if isinstance(outcome, Needs):
                docket.needs.setdefault(chunk, []).append(outcome)
            elif isinstance(outcome, Intact):
                docket.later[chunk] = outcome
                break
        if chunk not in docket.needs:
            intact = docket.later.pop(chunk, None)
            docket.decide(chunk, Bad() if intact is None else intact)
    return len(docket.needs) < len(pending)


def _use_later_candidates(docket: _Docket) -> bool:
    """Decide the suspects with an intact candidate behind one that waits in vain."""
    for chunk, intact in docket.later.items():
        docket.decide(chunk, intact)
    return bool(docket.later)


def _suspect_sources(docket: _Docket) -> bool:
    """Add the sources that cannot be read, unless they are recorded as lost."""
    sources = {needs.source for waiting in docket.needs.values() for needs in waiting}
    unknown = sorted(sources - docket.records.keys())
    new = [source for source in unknown if not docket.is_lost(source)]
    docket.add(new)
    return bool(new)


def _prove_sources(docket: _Docket) -> bool:
    """Decide sources without a record together with a suspect that they prove intact."""
    pending = docket.pending
    for chunk in pending:
        for needs in docket.needs[chunk]:
            if chunk not in docket.verdicts:
                _prove_sources_of(docket, chunk, needs)
    return len(docket.pending) < len(pending)


def _prove_sources_of(docket: _Docket, chunk: ChunkId, needs: Needs) -> None:
    """Decide a suspect and the sources of a candidate, if it is intact with copies of them."""
    copies: dict[ChunkId, Chunk] = {}
    outcome: Verdict = needs
    while isinstance(outcome, Needs) and docket.has_no_record(outcome.source):
        source = outcome.source
        copy = None if source in copies else _stored_copy(docket.evidence, source)
        if copy is None:
            break
        copies[source] = copy
        docket.show(source, copy)
        outcome = verdict(docket.evidence, chunk, docket.records[chunk], needs.record)
    if not isinstance(outcome, Intact):
        for source in copies:
            docket.hide(source)
        return
    docket.decide(chunk, outcome)
    for source, copy in copies.items():
        content = docket.evidence.store.chunk_reader.read_uncached(source, copy)
        docket.decide(source, Intact(with_hashes(docket.evidence, copy, content)))


def _stored_copy(evidence: Evidence, chunk: ChunkId) -> Chunk | None:
    """Return the first candidate for a chunk without a record whose stored bytes are intact."""
    for candidate in candidates(evidence, chunk, None):
        if evidence.form_problem(candidate) is None:
            with contextlib.suppress(CorruptData, OSError):
                evidence.store.stored_bytes.read(chunk, candidate)
                return candidate
    return None


def _believe_recipes(docket: _Docket) -> bool:
    """Decide the suspects whose sources have verdicts: a recipe is believed, or none."""
    ready = [
        chunk
        for chunk, waiting in docket.needs.items()
        if chunk not in docket.verdicts
        and all(needs.source not in docket.needs for needs in waiting)
    ]
    for chunk in ready:
        recorded = _recorded_recipes(docket, chunk)
        believed = (needs for needs in recorded if docket.is_lost(needs.source))
        docket.decide(chunk, next(believed, Bad()))
    return bool(ready)


def _recorded_recipes(docket: _Docket, chunk: ChunkId) -> Iterator[Needs]:
    """Yield the recipes that have the checksum of a suspect's record, with its hashes."""
    record = docket.records[chunk]
    for needs in docket.needs[chunk]:
        if record is not None and needs.record.checksum == record.checksum:
            complete = dataclasses.replace(
                needs.record, digest=record.digest, content_checksum=record.content_checksum
            )
            yield Needs(complete, needs.source)


def _cut_circle(docket: _Docket) -> bool:
    """Decide that one suspect of a circle is lost: the first without a recipe to believe."""
    chunk = next(iter(docket.needs))
    path: list[ChunkId] = []
    while chunk not in path:
        path.append(chunk)
        sources = (needs.source for needs in docket.needs[chunk])
        chunk = next(source for source in sources if source in docket.needs)
    circle = path[path.index(chunk) :]
    unbelievable = (link for link in circle if not any(_recorded_recipes(docket, link)))
    docket.decide(next(unbelievable, circle[0]), Bad())
    return True


RULES: Final[tuple[Callable[[_Docket], bool], ...]] = (
    _judge_candidates,
    _use_later_candidates,
    _suspect_sources,
    _prove_sources,
    _believe_recipes,
    _cut_circle,
)
