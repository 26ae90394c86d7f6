"""The order of chunks in packs in which files are read in few long runs. Pure arithmetic.

Theory of operation. Chunks are appended in the order of ingest, so a file that is written once and
never changed lies in its own order. Files that are written side by side, changed in places or
removed, and packs that gc rewrites, scatter the chunks of a file over the packs.

The target order is that of Zhou et al., "Serving Deep Learning Models with Deduplication from
Relational Databases" (PVLDB 15, 2022): chunks that are used by the same set of files lie together.
Such a *group* is read as a whole or not at all. Groups are sorted by their first read, and so are
the chunks within a group. For this order, files are read one after the other, the largest first: a
file that shares all its chunks with others is in order only if the others follow it. A chunk is
read with each chunk that derives from it, so the users of a dependant are its users, too.

A *run* is a part of a pack that is read forwards without a gap above `GAP_MAX`. A file that is read
alternately from two such parts has two runs, since the kernel reads ahead in both.
`Fragmentation.runs` counts the runs of each file as chunks lie now, `ideal_runs` in the target
order. A file with many more runs than in the target order is *scattered*.

Example. Files A and B of 40 chunks of 64 KiB each were written side by side: a pack has A0 B0 A1 B1
and so on. Each file has 40 runs, as a chunk of the other is a gap above `GAP_MAX`. The target order
is A0 to A39, B0 to B39, with one run each, so both are scattered. The plan copies all 80 chunks in
that order to the next pack, and the pack that is then empty is deleted.

Arrays have a row for each chunk, or for each use of a chunk by a file; `defrag.usage` makes them
from the index.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]  # of `PackedChunks`, or of `ReadSequence.inodes`
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# The longest table of a segment and padding, which does not end a run.
GAP_MAX: Final = 32 << 10
# A file is scattered if it has more than RUNS_RATIO times its ideal number of runs, and more than
# RUNS_MORE runs above it.
RUNS_RATIO: Final = 2
RUNS_MORE: Final = 16
# A run of this length is not copied: a disk that seeks for 10 ms reads it in 50 ms, and one that
# does not seek gains nothing from longer ones.
RUN_LONG: Final = 8 << 20
# Bytes that one portion copies. They take room twice until emptied packs are deleted.
PORTION_BYTES: Final = 64 << 20
# Rows of a read sequence that are sorted together; the rows of one file always are. Sorting takes
# several times their memory.
BLOCK_ROWS: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PackedChunks:
    """The chunks in use, and their places in packs; a row each, by ascending number."""

    number: Numbers
    address: Numbers  # the pack's number times `PACK_STEP`, plus the offset in it
    stored: Numbers  # bytes

    # Larger than any pack, so that no run continues from one pack to the next.
    PACK_STEP = 1 << 40

    def rows_of(self, number: Numbers) -> tuple[Rows, Mask]:
        """Return the rows of chunks, and which of the chunks have one."""
        if not len(self.number):
            return np.zeros(len(number), np.int32), np.zeros(len(number), np.bool_)
        row = np.searchsorted(self.number, number).clip(max=len(self.number) - 1)
        return row.astype(np.int32), self.number[row] == number


@dataclass(frozen=True, slots=True)
class ReadSequence:
    """The chunks that are read when all files are read one after the other.

    `file` and `chunk` have a row for each chunk of each file: by inode, then by offset, each chunk
    followed by its sources. A chunk that occurs twice in a file has one row, its first.
    """

    inodes: Numbers  # of the files
    file: Rows  # row of `inodes`
    chunk: Rows  # row of `PackedChunks`


@dataclass(frozen=True, slots=True)
class Fragmentation:
    """The number of runs of each file, now and in the target order."""

    chunks: PackedChunks
    reads: ReadSequence
    order: Numbers  # all rows of `chunks`, in the target order
    runs: Numbers  # of each file
    ideal_runs: Numbers

    @property
    def scattered(self) -> Mask:
        """Which files would gain much from the target order."""
        more = self.runs - self.ideal_runs
        return (self.runs > RUNS_RATIO * self.ideal_runs) & (more > RUNS_MORE)


@dataclass(frozen=True, slots=True)
class DefragPlan:
    """Chunks to copy, in this order."""

    chunk: Numbers
    stored: Numbers

    @property
    def bytes(self) -> int:
        return int(self.stored.sum())

    def portions(self) -> Iterator["DefragPlan"]:
        """Divide the plan into portions of at most `PORTION_BYTES`, or a single larger chunk."""
        stops = np.cumsum(self.stored)
        start = 0
        while start < len(stops):
            before = int(stops[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(stops, before + PORTION_BYTES, "right")))
            yield DefragPlan(self.chunk[start:stop], self.stored[start:stop])
            start = stop


def measure(chunks: PackedChunks, reads: ReadSequence) -> Fragmentation:
    """Return the runs of each file, and the target order of all chunks."""
    first = _first_reads(chunks, reads)
    _, group = np.unique(_file_set_hashes(chunks, reads), return_inverse=True)
    begins = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(begins, group, first)
    order = np.lexsort((first, begins[group])).astype(np.int64)
    ideal_address = np.empty_like(chunks.address)
    ideal_address[order] = np.cumsum(chunks.stored[order]) - chunks.stored[order]
    return Fragmentation(
        chunks,
        reads,
        order,
        _count_runs(reads, chunks.address, chunks.stored),
        _count_runs(reads, ideal_address, chunks.stored),
    )


def plan(fragmentation: Fragmentation) -> DefragPlan:
    """Return the chunks to copy so that scattered files have fewer runs.

    Those are chunks of scattered files in short runs that follow each other in the target order. A
    short run between two long ones is not copied: it would be a run of its own in any place. So a
    copied chunk is never in the next plan.
    """
    chunks, reads = fragmentation.chunks, fragmentation.reads
    concerned = np.zeros(len(chunks.number), np.bool_)
    concerned[reads.chunk[fragmentation.scattered[reads.file]]] = True
    order = fragmentation.order[concerned[fragmentation.order]]
    chosen = order[in_short_runs(chunks.address[order], chunks.stored[order])]
    return DefragPlan(chunks.number[chosen], chunks.stored[chosen])


def in_short_runs(address: Numbers, stored: Numbers) -> Mask:
    """Return which chunks, given in target order, are in a short run next to another short run."""
    if not len(address):
        return np.zeros(0, np.bool_)
    run = np.cumsum(_begins_run(address, stored)) - 1
    short = np.bincount(run, stored) < RUN_LONG
    joins = np.zeros(len(short), np.bool_)
    joins[1:] = short[1:] & short[:-1]
    series = np.cumsum(~joins) - 1
    several = short & (np.bincount(series)[series] > 1)
    chosen: Mask = several[run]
    return chosen


def _file_set_hashes(chunks: PackedChunks, reads: ReadSequence) -> Hashes:
    """Return for each chunk a hash of the set of its users.

    It is the sum of their mixed inode numbers. A collision only puts two groups side by side.
    """
    # SplitMix64's finalizer (Steele et al., OOPSLA 2014), so that different sets have different
    # sums.
    mixed = reads.inodes.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    hashes = np.zeros(len(chunks.number), np.uint64)
    # A file has one row for each chunk, so its number is added once.
    np.add.at(hashes, reads.chunk, mixed[reads.file])
    return hashes


def _first_reads(chunks: PackedChunks, reads: ReadSequence) -> Numbers:
    """Return the position of each chunk's first read, with the largest files read first.

    Chunks that no file uses come last.
    """
    size = np.bincount(reads.file, chunks.stored[reads.chunk], len(reads.inodes))
    rank = np.empty(len(size), np.int64)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    as_read = np.argsort(rank[reads.file], kind="stable")
    first = np.full(len(chunks.number), len(as_read), np.int64)
    # Backwards: of several assignments to a row, the last one stays.
    first[reads.chunk[as_read[::-1]]] = np.arange(len(as_read) - 1, -1, -1)
    return first


def _count_runs(reads: ReadSequence, address: Numbers, stored: Numbers) -> Numbers:
    """Return the number of runs of each file, if chunks lie at `address`."""
    counts = np.zeros(len(reads.inodes), np.int64)
    start = 0
    while start < len(reads.file):
        last = reads.file[min(start + BLOCK_ROWS, len(reads.file)) - 1]
        stop = int(np.searchsorted(reads.file, last, "right"))
        file, chunk = reads.file[start:stop], reads.chunk[start:stop]
        row = np.lexsort((address[chunk], file))
        file, chunk = file[row], chunk[row]
        begins = _begins_run(address[chunk], stored[chunk])
        begins[1:] |= (file[1:] != file[:-1]) | (row[1:] < row[:-1])  # or it is read backwards
        np.add.at(counts, file[begins], 1)
        start = stop
    return counts


def _begins_run(address: Numbers, stored: Numbers) -> Mask:
    """Return which chunks do not lie right behind the chunk before them."""
    gap = address[1:] - address[:-1] - stored[:-1]
    begins = np.ones(len(address), np.bool_)
    begins[1:] = (gap < 0) | (gap > GAP_MAX)
    return begins
