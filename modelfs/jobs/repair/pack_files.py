"""What can be told of pack files that may be damaged: which they are, and what lies in them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modelfs.errors import CorruptPack
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.disk.descriptors import sync_folder
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.packs.pack import Packs, pack_name, pack_number, read_header
from modelfs.store.packs.segment import PAGE, Entry
from modelfs.store.store import Store

# What no pack is as long as: a segment cut short is looked into all the same.
ENDLESS: Final = 1 << 62


@dataclass(slots=True)
class PackState:
    """What a pack file says of itself."""

    pack: PackId
    length: int = -1  # of the file; -1 if there is none
    has_header: bool = False
    ends: list[int] = field(default_factory=lambda: [PAGE])  # of the whole segments, as they follow
    entries: dict[ChunkId, list[Entry]] = field(default_factory=dict)  # of those, as they follow
    strays: list[Entry] = field(default_factory=list)  # of segments behind damage, or cut short

    def has(self, chunk: ChunkId) -> bool:
        """Say whether some table of it names a chunk."""
        return any(True for _ in self.named(chunk))

    def named(self, chunk: ChunkId) -> Iterator[Entry]:
        """Yield what its tables say of a chunk, those first that are whole, and the newest."""
        yield from reversed(self.entries.get(chunk, []))
        yield from (entry for entry in self.strays if entry.chunk == chunk)

    def is_damaged(self, stop: int) -> bool:
        """Say whether the file is not what the index vouches for up to `stop`.

        If it is whole, and only does not end there, then it is the index that is wrong.
        """
        behind = bool(self.strays) or self.ends[-1] < min(stop, self.length)
        return not self.has_header or self.length < PAGE or (stop not in self.ends and behind)


def read_segment_tables(packs: Packs, pack: PackId) -> PackState:
    """Read the tables of a pack, whatever is damaged in between."""
    state = PackState(pack)
    try:
        state.length = packs.size(pack)
    except (CorruptPack, OSError):
        return state
    with contextlib.suppress(CorruptPack):
        packs.check_header(pack)
        state.has_header = True
    offset = PAGE
    while offset < state.length:
        offset = _take_segment(packs, state, offset)
    return state


def _take_segment(packs: Packs, state: PackState, offset: int) -> int:
    # Behind damage, any page may be where the next segment begins.
    try:
        segment = packs.segment(state.pack, offset, ENDLESS)
    except (CorruptPack, ValueError, OSError):
        return offset + PAGE
    if offset != state.ends[-1] or segment.stop > state.length:
        state.strays += segment.entries
        return offset + PAGE
    state.ends.append(segment.stop)
    for entry in segment.entries:
        state.entries.setdefault(entry.chunk, []).append(entry)
    return segment.stop


def restore_quarantined(store: Store, quarantine: Quarantine) -> Iterator[str]:
    """Give pack files the names that their headers say, and yield what was done.

    A file keeps its name if its header cannot be read. What is another store's is set aside.
    """
    files = (path for path in sorted(store.packs.folder.iterdir()) if path.is_file())
    found = {path: read_header(path) for path in files}
    uuid = store.superblock.uuid
    away: dict[Path, Path] = {}
    for path, header in found.items():
        if header is None or (pack_number(path.name) == header.pack and header.uuid == uuid):
            continue
        if header.uuid != uuid:
            quarantine.add_file(path)
            yield f"{path.name} is a pack of another store: set aside"
            continue
        right = path.with_name(pack_name(header.pack))
        here = found.get(right)
        if right not in away.values() and (here is None or here.pack != header.pack):
            away[path] = right
    for path in away:
        path.rename(path.with_name(path.name + ".moving"))
    for path, right in away.items():
        if right.exists():
            quarantine.add_file(right.rename(right.with_name(right.name + ".damaged")))
        path.with_name(path.name + ".moving").rename(right)
        yield f"{path.name} was {right.name}: renamed"
    sync_folder(store.packs.folder)
    store.packs.close()  # files that are open under the wrong names
