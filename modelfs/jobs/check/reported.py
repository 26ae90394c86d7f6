"""`Reported`: the damage that invariants have reported, for later invariants and for repair.

Example. Chunk 2 derives from chunk 1, and the row of chunk 1 is gone::

    links_lead_to_chunks   yields  Reported(baseless={2})  and a finding
    fsck                   joins   Reported(baseless={2})  with the damage before it
    contents_are_intact    takes   the joined one, and does not read chunk 2
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Final, TypeVar

from modelfs.store.index.tables import ChunkId, InodeNumber, Table

T = TypeVar("T")

# One object for all parts, of which a damaged store can have a million.
NONE_BROKEN: Final[Mapping[Table, frozenset[bytes]]] = MappingProxyType(
    dict.fromkeys(Table, frozenset())
)


@dataclass(frozen=True, slots=True)
class Reported:
    """Damage that is reported already, which later invariants pass over.

    ================  ==============================  =============================================
    field             yielded by                      read by
    ================  ==============================  =============================================
    broken            `rows_decode`                   all, through their view; repair
    misnamed          `rows_decode`, `names_agree`,   `link_counts_are_right`,
                      `names_lead_somewhere`          `directories_form_a_tree`
    baseless          `links_lead_to_chunks`          `contents_are_intact`; repair
    lineage_doubtful  the invariants of lineage       repair
    endless           `chains_end`                    `contents_are_intact`; repair
    too_long          `chains_end`                    repair
    lost_packs        `pack_files_are_there`          `segment_tables_agree`, `contents_are_intact`
    damaged           `contents_are_intact`           repair
    damaged_windows   `staged_bytes_are_intact`       repair
    ================  ==============================  =============================================
    """

    # Keys of the rows that do not decode.
    broken: Mapping[Table, frozenset[bytes]] = field(default_factory=lambda: NONE_BROKEN)
    misnamed: frozenset[InodeNumber] = frozenset()  # inodes with wrong names
    baseless: frozenset[ChunkId] = frozenset()  # derived from chunks without a record
    lineage_doubtful: bool = False  # whether rows of lineage are wrong
    endless: frozenset[ChunkId] = frozenset()  # derived from themselves, by way of others
    too_long: frozenset[ChunkId] = frozenset()  # derived in too many steps
    lost_packs: Mapping[int, int] = field(default_factory=dict)  # by pack: the length of the file
    damaged: frozenset[ChunkId] = frozenset()  # the content cannot be read, or is wrong
    damaged_windows: frozenset[bytes] = frozenset()  # keys of windows with wrong bytes

    def joined(self, parts: Iterable["Reported"]) -> "Reported":
        """Return the damage of this one and of all parts."""
        if len(whole := [self, *parts]) == 1:
            return self
        return Reported(
            broken={table: _union(part.broken[table] for part in whole) for table in Table},
            misnamed=_union(part.misnamed for part in whole),
            baseless=_union(part.baseless for part in whole),
            lineage_doubtful=any(part.lineage_doubtful for part in whole),
            endless=_union(part.endless for part in whole),
            too_long=_union(part.too_long for part in whole),
            lost_packs={pack: size for part in whole for pack, size in part.lost_packs.items()},
            damaged=_union(part.damaged for part in whole),
            damaged_windows=_union(part.damaged_windows for part in whole),
        )


def _union(sets: Iterable[frozenset[T]]) -> frozenset[T]:
    return frozenset(chain.from_iterable(sets))
