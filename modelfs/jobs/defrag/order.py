"""Page packing: the order of chunks in packs in which files are read in few long stretches.

Theory of operation. Chunks are appended as they come, so a file that is written and never touched
lies in its own order. But files are written beside each other, changed in places, and removed, and
gc moves what is left: then a model is read from all over the packs. The order that is aimed at is
that of Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases"
(PVLDB 15, 2022): chunks that the same set of files uses lie together. Such a *group* is wanted as a
whole or not at all. Groups follow each other by first use, and so do the chunks in them; the files
that read most come first, since what is made of many others is in order only if they follow it.

A chunk that others derive from is read whenever they are, so it counts for the files that use them.

A *run* is a stretch of a pack that is read forwards and without a gap to speak of. A file that is
read from two runs in turn has two, since the kernel reads ahead in both. `Survey.runs` counts them
as the chunks lie, `Survey.ideal` as they would lie in that order.

Everything here is arithmetic on arrays with a row for each chunk, or for each use of a chunk by a
file: `store.usage` makes them from the index.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]  # of `Places`, or of the files
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

# The longest table of a segment and padding, which are no reason to call it a new run.
GAP_MAX: Final = 32 << 10
# A file is worth it that has so many times the runs it could have, and so many more of them.
RUNS_RATIO: Final = 2
RUNS_MORE: Final = 16
# A run of that length stays: a disk that seeks for 10 ms reads it in 50 ms, one that does not seek
# gains nothing from longer ones.
RUN_LONG: Final = 8 << 20
# Bytes that are copied in one go, and the room that it takes until emptied packs are deleted.
PORTION_BYTES: Final = 64 << 20
# Uses of chunks that are looked at together; those of one file always are.
BLOCK_ROWS: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Places:
    """Where the chunks that are needed lie; a row each, by ascending number."""

    chunk: Numbers
    address: Numbers  # the pack's number times `PACK_STEP`, plus the offset in it
    stored: Numbers  # bytes

    # Packs are so far apart that no run goes on from one to the next.
    PACK_STEP = 1 << 40


@dataclass(frozen=True, slots=True)
class Reads:
    """What is read when all files are, one after the other: a row for each chunk of each file.

    In the order it is read: by inode, by offset, and what a chunk derives from after it.
    """

    inode: Numbers  # of each file
    file: Rows
    place: Rows


@dataclass(frozen=True, slots=True)
class Survey:
    """How well the chunks of a store lie for each file."""

    places: Places
    reads: Reads
    order: Numbers  # rows of `places`, as they ought to lie
    runs: Numbers  # of each file
    ideal: Numbers

    @property
    def scattered(self) -> Flags:
        """Which files would gain much."""
        return (self.runs > RUNS_RATIO * self.ideal) & (self.runs - self.ideal > RUNS_MORE)


@dataclass(frozen=True, slots=True)
class DefragPlan:
    """Chunks to copy, in that order."""

    chunk: Numbers
    stored: Numbers

    @property
    def bytes(self) -> int:
        return int(self.stored.sum())

    def portions(self, most: int | None = None) -> Iterator["DefragPlan"]:
        """Yield it in parts: of at most so many bytes, or a single chunk of more."""
        most = most or PORTION_BYTES
        stops = np.cumsum(self.stored)
        start = 0
        while start < len(stops):
            before = int(stops[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(stops, before + most, "right")))
            yield DefragPlan(self.chunk[start:stop], self.stored[start:stop])
            start = stop


def survey(places: Places, reads: Reads) -> Survey:
    """Return what order the chunks ought to have, and what it would gain each file."""
    order = _order(_signatures(places, reads), _first_reads(places, reads))
    ideal = np.empty_like(places.address)
    ideal[order] = np.cumsum(places.stored[order]) - places.stored[order]
    return Survey(
        places,
        reads,
        order,
        _count_runs(reads, places.address, places.stored),
        _count_runs(reads, ideal, places.stored),
    )


def plan(found: Survey) -> DefragPlan:
    """Return what to copy so that scattered files have fewer runs.

    Of what they use, short runs that ought to follow each other are copied to where they do. A
    short one between two long ones stays, since it would be a run of its own elsewhere, too. So
    what was copied is not copied again.
    """
    places, reads = found.places, found.reads
    concerned = np.zeros(len(places.chunk), np.bool_)
    concerned[reads.place[found.scattered[reads.file]]] = True
    order = found.order[concerned[found.order]]
    address, stored = places.address[order], places.stored[order]
    chosen = order[in_short_runs(address, stored)]
    return DefragPlan(places.chunk[chosen], places.stored[chosen])


def in_short_runs(address: Numbers, stored: Numbers) -> Flags:
    """Say which chunks are in one of two or more short runs on end."""
    if not len(address):
        return np.zeros(0, np.bool_)
    run = np.cumsum(_breaks(address, stored)) - 1
    short = np.bincount(run, stored) < RUN_LONG
    joins = np.zeros(len(short), np.bool_)
    joins[1:] = short[1:] & short[:-1]
    series = np.cumsum(~joins) - 1
    several = short & (np.bincount(series)[series] > 1)
    chosen: Flags = several[run]
    return chosen


def _signatures(places: Places, reads: Reads) -> Hashes:
    """Return for each chunk a hash of the set of files that use it.

    Sets that have the same one by chance lie together, and no more comes of it.
    """
    found = np.zeros(len(places.chunk), np.uint64)
    # A file has one row for each chunk: its hash counts once.
    np.add.at(found, reads.place, _mixed(reads.inode)[reads.file])
    return found


def _mixed(numbers: Numbers) -> Hashes:
    # SplitMix64's finalizer (Steele et al., OOPSLA 2014): sums of what it returns tell sets apart.
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result


def _first_reads(places: Places, reads: Reads) -> Numbers:
    """Return when each chunk is first read, if files that read most are; at last if never."""
    size = np.bincount(reads.file, places.stored[reads.place], len(reads.inode))
    rank = np.empty(len(size), np.int64)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    as_read = np.argsort(rank[reads.file], kind="stable")
    found = np.full(len(places.chunk), len(as_read), np.int64)
    # Backwards: of several assignments, the last one stays.
    found[reads.place[as_read[::-1]]] = np.arange(len(as_read) - 1, -1, -1)
    return found


def _order(signatures: Hashes, first: Numbers) -> Numbers:
    """Return all rows: groups of equal signature by first read, and rows in them by first read."""
    _, group = np.unique(signatures, return_inverse=True)
    begins = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(begins, group, first)
    return np.lexsort((first, begins[group])).astype(np.int64)


def _count_runs(reads: Reads, address: Numbers, stored: Numbers) -> Numbers:
    """Return for each file how many runs it is read in."""
    found = np.zeros(len(reads.inode), np.int64)
    for part in _blocks(reads.file):
        file, place = reads.file[part], reads.place[part]
        row = np.lexsort((address[place], file))
        file, place = file[row], place[row]
        begins = _breaks(address[place], stored[place])
        begins[1:] |= (file[1:] != file[:-1]) | (row[1:] < row[:-1])  # or it is read backwards
        np.add.at(found, file[begins], 1)
    return found


def _blocks(file: Rows) -> Iterator[slice]:
    """Yield all rows, some whole files at a time: sorting takes several times their room."""
    start = 0
    while start < len(file):
        last = file[min(start + BLOCK_ROWS, len(file)) - 1]
        stop = int(np.searchsorted(file, last, "right"))
        yield slice(start, stop)
        start = stop


def _breaks(address: Numbers, stored: Numbers) -> Flags:
    """Say which chunks do not lie behind the one before."""
    gap = address[1:] - address[:-1] - stored[:-1]
    breaks = np.ones(len(address), np.bool_)
    breaks[1:] = (gap < 0) | (gap > GAP_MAX)
    return breaks
