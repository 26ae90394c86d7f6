"""Runs: the parts of a planned read, each from one hole, file or chunk.

A run keeps everything that its bytes are read with, so a thread that fills it needs no index: the
`Descriptor` of a file, which stays readable although the file is deleted, or the record of a chunk,
whose moves `ChunkReader` follows.

Example. A read of 300 bytes consists of `ChunkRun(chunk 7, skip 0, 100)`, `FileRun(staging file,
offset 0, 50)` and `HoleRun(150)`. `parts` yields them with bytes 0 to 100, 100 to 150 and 150 to
300 of the reader's buffer.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from modelfs.store.disk.descriptors import Descriptor
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId, InodeNumber


@dataclass(frozen=True, slots=True)
class HoleRun:
    """Zeros, if no extent is missing there."""

    size: int
    unchecked: InodeNumber | None = None  # the file whose map is to be checked; None: it need not


@dataclass(frozen=True, slots=True)
class FileRun:
    """Bytes of a file in the store's folder: of a staging file, or of verified chunks in a pack."""

    file: Descriptor
    offset: int
    size: int
    staging_file: WindowFile | None = None  # None: a pack

    @property
    def check_waits(self) -> bool:
        """Whether `check` may wait for the disk."""
        return self.staging_file is not None and self.staging_file.check_waits(self.file)

    def check(self) -> None:
        """Check the bytes that were just read, if they are staged.

        Raises:
            LostBytes: the disk has lost some of them.
            BytesMoved: they are in chunks by now, so the read has to be planned again.
            FileNotFoundError: the same beside a writer.
        """
        if self.staging_file is not None:
            self.staging_file.check(self.file, self.offset, self.offset + self.size)

    def part(self, start: int, size: int) -> "FileRun":
        """Return a part of the run; `start` counts from its own start."""
        return FileRun(self.file, self.offset + start, size, self.staging_file)


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """A part of a chunk that must be verified or decoded before it is read."""

    chunk: ChunkId
    record: Chunk
    skip: int
    size: int

    @property
    def is_end(self) -> bool:
        """Whether the run reaches the end of its chunk."""
        return self.skip + self.size == self.record.size


ReadRun = HoleRun | FileRun | ChunkRun


def parts(runs: Iterable[ReadRun], into: memoryview) -> Iterator[tuple[ReadRun, memoryview]]:
    """Yield each run with its part of a buffer, which has their total size."""
    at = 0
    for run in runs:
        yield run, into[at : at + run.size]
        at += run.size


def filled(size: int, fill: Callable[[memoryview], None]) -> bytes:
    """Return new bytes that a function has filled. The function gets zeros."""
    # The value of a BytesIO is not copied; bytes of a bytearray are. That copy takes twice the
    # memory, and for 1 GB 1.7 s instead of 0.9.
    buffer = io.BytesIO(bytes(size))
    with buffer.getbuffer() as into:
        fill(into)
    return buffer.getvalue()
