"""Repair of the rows of packs, after every chunk was put in a safe place."""

from collections.abc import Collection, Mapping

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.pack_files import PackState
from modelfs.store.index.chunk_records import PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.packs.header import pack_name


def repair_pack_rows(
    context: RepairContext, states: Mapping[PackId, PackState], damaged: Collection[PackId]
) -> None:
    """Give every pack with chunks a row with its end; damaged packs go to quarantine, whole."""
    needed: dict[PackId, int] = {}
    for _, record in context.rows(Table.CHUNKS):
        if not record.is_lost:
            stop = record.offset + record.stored
            needed[record.pack] = max(needed.get(record.pack, 0), stop)
    for pack, state in states.items():
        if pack in damaged:
            _retire(context, state)
        elif pack in needed:
            row = context.store.chunks.pack_row(pack)
            if row.stop not in state.ends or row.stop < needed[pack]:
                stop = next(end for end in state.ends if end >= needed[pack])
                context.index.put(Table.PACKS, number_key(pack), PackRow(stop, row.live).to_bytes())
                context.repaired(f"pack {pack} ends at {stop}, as its segments do")
        elif context.store.chunks.pack_row(pack).stop not in state.ends:
            _retire(context, state)


def _retire(context: RepairContext, state: PackState) -> None:
    """Remove the row of a pack that no chunk needs, and set its file aside."""
    pack = state.pack
    has_row = context.index.get(Table.PACKS, number_key(pack)) is not None
    if not has_row and not _has_lost_chunks(context, state):
        return  # never committed: removed when the store is opened
    context.drop(Table.PACKS, number_key(pack), "the pack is damaged or missing")
    if state.length >= 0:
        context.quarantine.add_file(context.store.packs.directory, pack_name(pack))
        context.repaired(f"pack {pack} was damaged: set aside; its intact chunks are copied")
    else:
        context.repaired(f"pack {pack} is missing: its row is removed")


def _has_lost_chunks(context: RepairContext, state: PackState) -> bool:
    """Return whether chunks of a pack are recorded as lost: the next check would find it "back"."""
    return any(
        record.is_lost and record.checksum == entry.checksum
        for key, record in context.rows(Table.CHUNKS)
        for entry in state.entries_of(ChunkId(number_of(key)))
    )
