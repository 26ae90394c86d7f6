"""Pack files that may be damaged: their names, their headers and their segment tables.

Example. Pack 2 has three segments, and the table of the second is damaged. Its `PackState` has the
first segment in `ends` and `entries`, and the third in `strays`: where a segment begins behind the
damage is a guess, confirmed only by its checksum.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptPack
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.packs.header import pack_name, pack_number, read_header
from modelfs.store.packs.pack import Packs
from modelfs.store.packs.segment import PAGE, Entry
from modelfs.store.store import Store

# More bytes than a pack has, as the end up to which tables are read: a segment that is cut short is
# read, too.
ENDLESS: Final = 1 << 62


@dataclass(slots=True)
class PackState:
    """The contents of a pack file, by its own header and tables."""

    pack: PackId
    length: int = -1  # of the file; -1 if there is none
    has_header: bool = False
    ends: list[int] = field(default_factory=lambda: [PAGE])  # of the whole segments
    entries: dict[ChunkId, list[Entry]] = field(default_factory=dict)  # of these segments
    strays: list[Entry] = field(default_factory=list)  # of segments behind damage, or cut short

    def has(self, chunk: ChunkId) -> bool:
        """Return whether a segment table has an entry for a chunk."""
        return any(True for _ in self.entries_of(chunk))

    def entries_of(self, chunk: ChunkId) -> Iterator[Entry]:
        """Yield the entries for a chunk: first those of whole segments, from the newest on."""
        yield from reversed(self.entries.get(chunk, []))
        yield from (entry for entry in self.strays if entry.chunk == chunk)

    def is_damaged(self, stop: int) -> bool:
        """Return whether the file lacks something that it had when its row got `stop`.

        A whole file that ends elsewhere is not damaged: then the row is wrong.
        """
        behind = bool(self.strays) or self.ends[-1] < min(stop, self.length)
        return not self.has_header or self.length < PAGE or (stop not in self.ends and behind)


def read_segment_tables(packs: Packs, pack: PackId) -> PackState:
    """Read the segment tables of a pack, also those behind a damaged one."""
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
        try:
            segment = packs.segment(pack, offset, ENDLESS)
        except (CorruptPack, ValueError, OSError):
            offset += PAGE  # behind damage, the next segment may begin at any page
            continue
        if offset != state.ends[-1] or segment.stop > state.length:
            state.strays += segment.entries
            offset += PAGE
            continue
        state.ends.append(segment.stop)
        for entry in segment.entries:
            state.entries.setdefault(entry.chunk, []).append(entry)
        offset = segment.stop
    return state


def rename_packs(store: Store, quarantine: Quarantine) -> Iterator[str]:
    """Give pack files the names of their headers, and yield a message for each change.

    A file whose header cannot be read keeps its name. Packs of another store are set aside.
    """
    folder, uuid = store.packs.directory, store.superblock.uuid
    headers = {name: read_header(folder, name) for name in sorted(folder.names())}
    new_names: dict[str, str] = {}
    for name, header in headers.items():
        if header is None or (pack_number(name) == header.pack and header.uuid == uuid):
            continue
        if header.uuid != uuid:
            quarantine.add_file(folder, name)
            yield f"{name} is a pack of another store: set aside"
            continue
        new_name = pack_name(header.pack)
        present = headers.get(new_name)
        if new_name not in new_names.values() and (present is None or present.pack != header.pack):
            new_names[name] = new_name
    for name in new_names:  # by way of other names, as two packs may have each other's
        folder.rename(name, name + ".moving")
    for name, new_name in new_names.items():
        if folder.exists(new_name):
            folder.rename(new_name, new_name + ".damaged")
            quarantine.add_file(folder, new_name + ".damaged")
        folder.rename(name + ".moving", new_name)
        yield f"{name} is pack {new_name} by its header: renamed"
    folder.sync()
    store.packs.close()  # files that are open under the wrong names
