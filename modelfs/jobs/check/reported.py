"""`Reported`: the damage that invariants have reported, for later invariants and for repair."""

from dataclasses import dataclass, field

from modelfs.store.index.tables import ChunkId, InodeNumber, Table


@dataclass(slots=True)
class Reported:
    """Damage that is reported already. Invariants add to it in their order, and pass over it.

    ================  ==============================  =============================================
    field             written by                      read by
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
    broken: dict[Table, set[bytes]] = field(
        default_factory=lambda: {table: set() for table in Table}
    )
    misnamed: set[InodeNumber] = field(default_factory=set)  # inodes with wrong names
    baseless: set[ChunkId] = field(default_factory=set)  # derived from chunks without a record
    lineage_doubtful: bool = False  # whether rows of lineage are wrong
    endless: set[ChunkId] = field(default_factory=set)  # derived from themselves, by way of others
    too_long: set[ChunkId] = field(default_factory=set)  # derived in too many steps
    lost_packs: dict[int, int] = field(default_factory=dict)  # by pack: the length of the file
    damaged: set[ChunkId] = field(default_factory=set)  # the content cannot be read, or is wrong
    damaged_windows: set[bytes] = field(default_factory=set)  # keys of windows with wrong bytes
