"""One pass of ingest through a file, and how it is divided into steps.

A step's region begins and ends at window boundaries, so that skeleton chunks do not depend on how a
pass was divided.
"""

from dataclasses import dataclass, field
from typing import Final

from modelfs.formats.layout import Layout
from modelfs.jobs.ingest.chunker import Cutter, Piece
from modelfs.jobs.ingest.external_data import Place
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.staged_file import WINDOW, StagedFile
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber

# One step reads at most about this much staged content, and looks at this many extents.
STEP_BYTES: Final = 2 * WINDOW
STEP_EXTENTS: Final = 4096


@dataclass(slots=True)
class Pass:
    """One walk through a file. Its fields change only between steps."""

    inode: InodeNumber
    complete: bool  # the file is not being written: its layout is final
    models: dict[InodeNumber, StagedFile] = field(default_factory=dict)  # that name it, copies
    request: bytes | None = None  # what was pending for the file when the pass began
    layout: Layout | None = None
    cutter: Cutter | None = None
    places: set[Place] = field(default_factory=set)
    copy_key: bytes | None = None  # under which its copies are listed
    rows: list[tuple[bytes, bytes | None]] = field(default_factory=list)  # of tensors, to change
    position: int = 0
    # The stamp of each window when the pass began.
    versions: dict[int, tuple[int, int]] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)  # windows with pieces that were not applied
    done: bool = False


@dataclass(slots=True)
class Step:
    """One region of a pass: what was seen, and what is to be done about it."""

    file_pass: Pass
    staged: StagedFile  # a copy
    start: int
    stop: int
    extents: list[Extent] = field(default_factory=list)
    unfinished: list[Piece] = field(default_factory=list)  # reach into what is still written

    def within_step(self, piece: Piece) -> bool:
        begins = self.start <= piece.start < self.stop
        # A partial pass leaves windows out: what reaches in from one of them is nobody else's.
        return begins or (not self.file_pass.complete and piece.start < self.start < piece.stop)


def next_region(staged: StagedFile, maps: FileMaps, start: int) -> tuple[int, int] | None:
    """Return the bounds of the next step from `start` on, None at the end of the data.

    They lie on window boundaries, so that skeletons do not depend on how a pass was divided.
    """
    windows = sorted(number for number in staged.windows if (number + 1) * WINDOW > start)
    rows, more = maps.starts(staged.inode, start, STEP_EXTENTS)
    if staged.map_visible_to is not None:
        rows = [each for each in rows if each < staged.map_visible_to]
    first = min([*(number * WINDOW for number in windows[:1]), *rows[:1]], default=None)
    if first is None:
        return None
    stop = _staged_stop(staged, windows)
    if more and rows:
        stop = min(stop, rows[-1] // WINDOW * WINDOW)
    start = max(start, first // WINDOW * WINDOW)
    return start, max(stop, start // WINDOW * WINDOW + WINDOW)


def next_full_region(staged: StagedFile, start: int) -> tuple[int, int] | None:
    """Return the next run of windows that are written from end to end, None if there is none."""
    full = [number for number in sorted(staged.windows) if staged.windows[number].full]
    full = [number for number in full if number * WINDOW >= start]
    if not full:
        return None
    last = full[0]
    while last + 1 in full and (last + 1 - full[0]) * WINDOW < STEP_BYTES:
        last += 1
    return full[0] * WINDOW, (last + 1) * WINDOW


def _staged_stop(staged: StagedFile, windows: list[int]) -> int:
    total = 0
    for number in windows:
        total += staged.windows[number].ranges.size
        if total > STEP_BYTES:
            return number * WINDOW
    return (staged.size + WINDOW - 1) // WINDOW * WINDOW
