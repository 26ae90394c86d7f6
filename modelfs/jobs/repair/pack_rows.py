"""Repair of what the index says of packs, when every chunk is where it can stay."""

from collections.abc import Collection, Mapping

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.pack_files import PackState
from modelfs.store.index.chunk_records import PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.packs.pack import pack_name


def repair_pack_rows(
    context: RepairContext, states: Mapping[PackId, PackState], damaged: Collection[PackId]
) -> None:
    """Let every pack in which something lies have a row that says where it ends.

    What is left of a damaged one goes to quarantine, whole.
    """
    needed: dict[PackId, int] = {}
    for _, record in context.rows(Table.CHUNKS):
        if not record.is_lost:
            stop = record.offset + record.stored
            needed[record.pack] = max(needed.get(record.pack, 0), stop)
    for pack, state in states.items():
        if pack in damaged:
            _retire(context, state)
        elif pack in needed:
            _mend_row(context, state, needed[pack])
        elif context.store.chunks.pack_row(pack).stop not in state.ends:
            _retire(context, state)


def _retire(context: RepairContext, state: PackState) -> None:
    pack = state.pack
    is_known = context.index.get(Table.PACKS, number_key(pack)) is not None
    if not is_known and not _names_lost(context, state):
        return  # never committed: removed when the store is opened
    context.drop(Table.PACKS, number_key(pack), "the pack is damaged or missing")
    if state.length >= 0:
        context.quarantine.add_file(context.store.packs.folder / pack_name(pack))
        context.repaired(f"pack {pack} was damaged: set aside, what was intact is copied")
    else:
        context.repaired(f"pack {pack} is missing, and no longer looked for")


def _names_lost(context: RepairContext, state: PackState) -> bool:
    # It lost its row, and chunks in it their bytes: next time, it would seem to be back.
    return any(
        record.is_lost and record.checksum == entry.checksum
        for key, record in context.rows(Table.CHUNKS)
        for entry in state.named(ChunkId(number_of(key)))
    )


def _mend_row(context: RepairContext, state: PackState, needed: int) -> None:
    row = context.store.chunks.pack_row(state.pack)
    if row.stop not in state.ends or row.stop < needed:
        stop = next(end for end in state.ends if end >= needed)
        context.put(Table.PACKS, number_key(state.pack), PackRow(stop, row.live).to_bytes())
        context.repaired(f"pack {state.pack} is vouched for up to {stop} again")
