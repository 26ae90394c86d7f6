"""The images that a loss of power may leave of a recorded disk.

Writes before an answered flush are on the disk. Of the writes after it, a disk may have kept
anything: nothing (`none`), everything (`all`), or some blocks of 4 KiB, each with any content that
it had since (`some`).
"""

import json
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.trust.crash.disk import FLUSH, STATEMENT, WRITE, Entry, entries
from tools.trust.crash.promises import Ledger

BLOCK: Final = 4096
KINDS: Final = ("none", "all", "some")


@dataclass(frozen=True, order=True, slots=True)
class Point:
    """A loss after `after` entries of the record; `kind` says which of the last the disk keeps."""

    after: int
    kind: str


class Record:
    """A record that was read from its file."""

    def __init__(self, path: Path) -> None:
        self.entries = list(entries(path))
        self._fd = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self._fd)

    def data(self, entry: Entry) -> bytes:
        return os.pread(self._fd, entry.size, entry.at)

    def count(self, what: bytes) -> int:
        return sum(entry.what == what for entry in self.entries)

    def phases(self) -> dict[str, list[int]]:
        """Return the numbers of the entries of each phase; those before the first are left out.

        A phase that is named twice is one.
        """
        phases: dict[str, list[int]] = {}
        phase = None
        for number, entry in enumerate(self.entries):
            if entry.what == STATEMENT:
                kind, subject, *_ = json.loads(self.data(entry))
                phase = subject if kind == "phase" else phase
            if phase is not None:
                phases.setdefault(phase, []).append(number)
        return phases


def choose(record: Record, count: int, seed: int) -> list[Point]:
    """Return `count` different points in order, the same number in each phase."""
    draw = random.Random(seed)
    pools = list(record.phases().values())
    for pool in pools:
        draw.shuffle(pool)
    chosen: set[Point] = set()
    turn = 0
    while len(chosen) < count and any(pools):
        pool = pools[turn % len(pools)]
        turn += 1
        if pool:
            kind = KINDS[len(chosen) % len(KINDS)]
            chosen.add(Point(_latest(record, pool.pop(), kind), kind))
    return sorted(chosen)


def _latest(record: Record, number: int, kind: str) -> int:
    # If all writes since the last flush are lost, the disk is the same until the next flush, and
    # the moment just before that has the most promises.
    if kind == "none":
        while number < len(record.entries) and record.entries[number].what != FLUSH:
            number += 1
    return number


class Images:
    """Makes the images of points, given in order."""

    def __init__(self, record: Record, base: Path, seed: int) -> None:
        """Begin with `base`, the image at the beginning of the record; it is changed."""
        self._record = record
        self._base = base
        self._draw = random.Random(seed)
        self._flushed = 0  # entries that are in `base`
        self._heard = 0
        self.ledger = Ledger()

    def make(self, point: Point, target: Path) -> None:
        """Write the image after a loss to `target`, and advance the ledger to that moment."""
        for entry in self._record.entries[self._heard : point.after]:
            if entry.what == STATEMENT:
                self.ledger.add(self._record.data(entry))
        self._heard = point.after
        self._flush_up_to(point.after)
        subprocess.run(["cp", "--sparse=auto", self._base, target], check=True)
        late = [e for e in self._record.entries[self._flushed : point.after] if e.what == WRITE]
        if point.kind != "none":
            _write(target, self._all(late) if point.kind == "all" else self._some(late))

    def _flush_up_to(self, after: int) -> None:
        entries = self._record.entries
        last = max((n for n in range(self._flushed, after) if entries[n].what == FLUSH), default=0)
        if last:
            _write(
                self._base, self._all([e for e in entries[self._flushed : last] if e.what == WRITE])
            )
            self._flushed = last

    def _all(self, writes: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return ((entry.offset, self._record.data(entry)) for entry in writes)

    def _some(self, writes: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        versions: dict[int, list[bytes]] = {}
        for offset, data in self._all(writes):
            for start, piece in _blocks(offset, data):
                versions.setdefault(start, []).append(piece)
        for start, pieces in versions.items():
            if self._draw.random() < 0.5:
                newest = self._draw.random() < 0.7
                yield start, pieces[-1] if newest else self._draw.choice(pieces)


def _blocks(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size = BLOCK - (offset + at) % BLOCK
        yield offset + at, data[at : at + size]
        at += size


def _write(image: Path, writes: Iterator[tuple[int, bytes]]) -> None:
    fd = os.open(image, os.O_RDWR)
    try:
        for offset, data in writes:
            if data != bytes(len(data)) or not _is_hole(fd, offset, len(data)):
                os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def _is_hole(fd: int, start: int, size: int) -> bool:
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= start + size
    except OSError:  # ENXIO: no data from here on
        return True
