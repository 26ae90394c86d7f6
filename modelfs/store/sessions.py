"""Sessions: numbers and names that no other history of a store has given out.

A *session* of a store begins when it is opened for writing, and with each round of a repair. A
backup that is put back turns all counters back, and a crash those changed since the last commit.
Other processes may still have numbers of the history that is gone: a `File` keeps its inode, a
cache the numbers of chunks, a read the name of a staging file. So each session begins the numbers
of inodes, chunks and packs above a random gap, and the generations of staging files at a random
number. It also has a random number of its own, and a reader empties its caches when that changes.
Cookies of listings have no gaps: no other process keeps them.

Two sessions after the same backup share numbers if their gaps differ by less than the numbers that
they give out: with a million each, in 2 of a million cases. The first session of an empty store has
no gaps, and small numbers.

Example. The backup of a store has 5 as the next inode. A session draws a gap of 700, creates inode
705, and a reader keeps it. The backup is put back: the next inode is 5 again. The next session
draws 20,000 and creates inode 20,005. The reader gets `NotFound` for 705.
"""

import contextlib
import secrets
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.store.files.staging import Staging
from modelfs.store.files.window import GENERATION_BITS
from modelfs.store.index.counters import (
    NEXT_CHUNK,
    NEXT_INODE,
    NEXT_PACK,
    SESSION,
    Counters,
)
from modelfs.store.index.index import Index
from modelfs.store.index.tables import NUMBER_END, ROOT

# Inodes below 2^53 for some 16,000 sessions: programs that keep numbers as floats show them right.
GAP: Final = 1 << 40
# A gap takes at most this part of the numbers that are left, so they never run out.
PART: Final = 1 << 20
SESSION_BITS: Final = 62


def begin_session(index: Index, counters: Counters, staging: Staging) -> None:
    """Draw the session's number, and advance the counters past random gaps.

    The session's first commit has these changes: no commit has a number of a session without the
    session's row.
    """
    with index.change():
        counters.set(SESSION, secrets.randbits(SESSION_BITS))
        if _is_new(counters):
            return
        for name in (NEXT_INODE, NEXT_CHUNK, NEXT_PACK):
            with contextlib.suppress(CorruptIndex):  # a damaged row stays: fsck reports it
                number = counters.get(name)
                gap = min(GAP, (NUMBER_END - number) // PART)
                counters.set(name, number + secrets.randbelow(max(1, gap)))
    staging.start_generations_at(secrets.randbits(GENERATION_BITS))


def _is_new(counters: Counters) -> bool:
    """Whether no commit has a file, so no other process has a number."""
    try:
        return counters.get(NEXT_INODE) == ROOT + 1
    except CorruptIndex:
        return False
