"""Repair of chunks and packs: every chunk that can be read is put where it is safe.

A record is believed without another look if the table of its segment, in a pack that is whole,
says exactly the same. Any other is suspect, and so is what the check found damaged. For a suspect,
the bytes are read where the record says, and wherever a segment table of any pack says that the
chunk is. Bytes that match a checksum and decode are the chunk's if their hash is the one that the
record or the table of hashes has, or if record and segment agree in all but the hash. If there are
none the chunk is lost, and its record says so.

Chunks in packs that are damaged themselves are copied to a new pack; what is left of the file goes
to quarantine. Of a chunk whose bytes alone are damaged, these go there, and the pack stays.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptData
from modelfs.store.check_chunks import form_problem
from modelfs.store.check_packs import entry_of
from modelfs.store.mending import Mending
from modelfs.store.pack import pack_name
from modelfs.store.records import UNKNOWN, Chunk, ChunkKind, PackRow
from modelfs.store.repair_packs import PackState, look_into
from modelfs.store.segment import Entry
from modelfs.store.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.totals import NEXT_PACK

# No pack has a number like that.
PACK_END: Final = 1 << 62


def mend_chunks(mending: Mending) -> None:
    """Let every chunk that is used be where its record says, or be lost."""
    mender = _ChunkMender(mending)
    mender.judge()
    mender.move()
    mender.mend_rows()


class _ChunkMender:
    def __init__(self, mending: Mending) -> None:
        self._mending = mending
        self._chunks = mending.store.chunks
        self._packs = mending.store.packs
        self._largest = mending.store.superblock.chunk_size
        self._uses = mending.view().usage.uses
        self._states = {pack: look_into(self._packs, pack) for pack in self._all_packs()}
        self._damaged = {
            pack
            for pack, state in self._states.items()
            if state.is_damaged(self._chunks.pack_row(pack).stop)
        }
        self._moving: dict[ChunkId, Chunk] = {}  # intact, but in no place to stay
        self._lost: dict[ChunkId, Chunk] = {}
        self._found = 0

    def _all_packs(self) -> set[PackId]:
        rows = {PackId(number_of(key)) for key, _ in self._mending.rows(Table.PACKS)}
        records = (record for _, record in self._mending.rows(Table.CHUNKS))
        return rows | {each.pack for each in records if not each.is_lost} | self._packs.numbers()

    # -- which chunks are where

    def judge(self) -> None:
        """Find the place of every chunk, and change the records of those that are elsewhere."""
        missing = set(self._uses)
        for key, record in list(self._mending.rows(Table.CHUNKS)):
            chunk = ChunkId(number_of(key))
            missing.discard(chunk)
            if self._is_suspect(chunk, record):
                self._judge(chunk, record)
        for chunk in sorted(missing):
            self._judge(chunk, None)
        if self._found:
            self._mending.mended(f"chunks that were found again in the packs: {self._found}")
        self._tell_lost()

    def _is_suspect(self, chunk: ChunkId, record: Chunk) -> bool:
        if form_problem(record, self._largest) is not None:
            return True
        if record.is_lost:
            # Unless a pack is here that was not: it may have been found, and put back.
            return any(state.has(chunk) for state in self._states.values())
        return (
            chunk in self._mending.found.damaged
            or record.pack in self._damaged
            or not self._is_told(chunk, record)
            or chunk not in self._chunks.with_digest(record.digest)
        )

    def _is_told(self, chunk: ChunkId, record: Chunk) -> bool:
        return self._states[record.pack].entries.get(chunk) == entry_of(chunk, record)

    def _judge(self, chunk: ChunkId, record: Chunk | None) -> None:
        right = next(self._intact(chunk, record), None)
        if right is not None:
            if right.pack in self._damaged or not self._is_told(chunk, right):
                self._moving[chunk] = right
            self._put(chunk, right)
            self._found += record != right
        elif record is not None and not (
            record.is_lost and form_problem(record, self._largest) is None
        ):
            self._lose(chunk, record)
        # What has no record, and is nowhere, is told of when the maps are mended.

    def _put(self, chunk: ChunkId, record: Chunk) -> None:
        self._mending.put(Table.CHUNKS, number_key(chunk), record.to_bytes())

    def _intact(self, chunk: ChunkId, record: Chunk | None) -> Iterator[Chunk]:
        """Yield the records, right but for their uses, by which the chunk's content is read."""
        for candidate in self._candidates(chunk, record):
            if form_problem(candidate, self._largest) is not None:
                continue
            try:
                content = self._chunks.load_anew(chunk, candidate)
            except (CorruptData, OSError):
                continue
            digest = self._chunks.digest(content)
            if self._fits(chunk, record, candidate, digest):
                yield dataclasses.replace(candidate, digest=digest)

    def _candidates(self, chunk: ChunkId, record: Chunk | None) -> Iterator[Chunk]:
        if record is not None and not record.is_lost:
            yield record
        for pack in sorted(self._states, reverse=True):
            state = self._states[pack]
            if (entry := state.entries.get(chunk)) is not None:
                yield _record(entry, pack, record)
            for entry in state.strays:
                if entry.chunk == chunk:
                    yield _record(entry, pack, record)

    def _fits(self, chunk: ChunkId, record: Chunk | None, candidate: Chunk, digest: bytes) -> bool:
        # A chunk's number alone may be a damaged one, and a place with its checksum another's.
        if chunk in self._chunks.with_digest(digest):
            return True
        if record is None or digest == record.digest:
            return record is not None
        return candidate.checksum == record.checksum and self._is_told(chunk, candidate)

    # -- what is lost

    def _lose(self, chunk: ChunkId, record: Chunk) -> None:
        self._keep_stored(chunk, record)
        lost = record.as_lost()
        if chunk in self._uses and form_problem(lost, self._largest) is None:
            self._put(chunk, lost)
        else:
            self._mending.drop(Table.CHUNKS, number_key(chunk), "damaged, and nowhere else")
        if chunk in self._uses:
            self._lost[chunk] = record
        else:
            self._mending.mended(f"chunk {chunk} was damaged, and nothing uses it: removed")

    def _keep_stored(self, chunk: ChunkId, record: Chunk) -> None:
        # In a damaged pack they are kept with the whole file.
        if record.pack not in self._damaged and form_problem(record, self._largest) is None:
            with contextlib.suppress(CorruptData, OSError):
                stored = self._packs.read(record.pack, record.offset, record.stored)
                self._mending.quarantine.add_content(f"chunk-{chunk}", stored)

    def _tell_lost(self) -> None:
        users = self._mending.view().users(self._lost) if self._lost else {}
        for pack in sorted({record.pack for record in self._lost.values()}):
            chunks = [chunk for chunk, record in self._lost.items() if record.pack == pack]
            hurt = [users[chunk] for chunk in chunks]
            size = sum(self._lost[chunk].size for chunk in chunks)
            self._mending.quarantined(
                f"chunks in pack {pack} that are lost: {len(chunks)}, of {size} bytes",
                dict.fromkeys(path for each in hurt for path in each.files),
                dict.fromkeys(name for each in hurt for name in each.tensors),
            )

    # -- moving what cannot stay

    def move(self) -> None:
        """Copy the chunks to a new pack that have no place to stay."""
        if not self._moving:
            return
        numbers = [pack for pack in self._states if pack < PACK_END]
        following = max([self._mending.store.totals.get(NEXT_PACK) - 1, *numbers]) + 1
        self._packs.open_at(None, PackId(following))
        writer = self._mending.store.writer()
        for chunk, record in self._moving.items():
            writer.copy(chunk, record, self._chunks.stored_bytes(chunk, record))
        written = writer.finish()
        for chunk, record in written.moved.items():
            self._put(chunk, record)
        for pack, tail in written.tails.items():
            self._mending.put(Table.PACKS, number_key(pack), PackRow(tail.stop, 0).to_bytes())
            self._mending.store.totals.set(NEXT_PACK, pack + 1)
            self._states[PackId(pack)] = look_into(self._packs, PackId(pack))
        self._mending.mended(f"chunks that were copied to a new pack: {len(written.moved)}")

    # -- the packs

    def mend_rows(self) -> None:
        """Let every pack in which something lies have a row that says where it ends."""
        needed: dict[PackId, int] = {}
        for _, record in self._mending.rows(Table.CHUNKS):
            if not record.is_lost:
                stop = record.offset + record.stored
                needed[record.pack] = max(needed.get(record.pack, 0), stop)
        for pack, state in self._states.items():
            if pack in self._damaged:
                self._retire(pack, state)
            elif pack in needed:
                self._mend_row(state, needed[pack])
            elif self._chunks.pack_row(pack).stop not in state.ends:
                self._retire(pack, state)

    def _retire(self, pack: PackId, state: PackState) -> None:
        if self._mending.index.get(Table.PACKS, number_key(pack)) is None:
            return  # never committed: removed when the store is opened
        self._mending.drop(Table.PACKS, number_key(pack), "the pack is damaged or missing")
        if state.length >= 0:
            self._mending.quarantine.add_file(self._packs.folder / pack_name(pack))
            self._mending.mended(f"pack {pack} was damaged: set aside, what was intact is copied")
        else:
            self._mending.mended(f"pack {pack} is missing, and no longer looked for")

    def _mend_row(self, state: PackState, needed: int) -> None:
        row = self._chunks.pack_row(state.pack)
        if row.stop not in state.ends or row.stop < needed:
            stop = next(end for end in state.ends if end >= needed)
            self._mending.put(
                Table.PACKS, number_key(state.pack), PackRow(stop, row.live).to_bytes()
            )
            self._mending.mended(f"pack {state.pack} is vouched for up to {stop} again")


def _record(entry: Entry, pack: PackId, like: Chunk | None) -> Chunk:
    return Chunk(
        kind=ChunkKind.PLAIN if entry.codec is CodecId.RAW else ChunkKind.CODED,
        codec=entry.codec,
        size=entry.size,
        pack=pack,
        offset=entry.offset,
        stored=entry.stored,
        uses=1 if like is None else like.uses,  # counted at the end of the round
        used=0 if like is None else like.used,
        checksum=entry.checksum,
        digest=UNKNOWN,
    )
