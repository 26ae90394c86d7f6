"""The statistics of a store, as `modelfs stats` shows them, and the counts that they consist of."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from modelfs.store.chunks.cache import CacheStatistics, ChunkCache
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.usage import disk_usage
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.staging import Staging
from modelfs.store.index.counters import (
    BASE_ONLY_BYTES,
    BASE_ONLY_CHUNKS,
    FILES,
    LOGICAL,
    SHARED,
    Counters,
    FormTotals,
)
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of

# Former names of keys of `stats --json`, kept beside the new ones for one release.
FORMER_KEYS: Final = {
    "unsettled_files": "files_to_optimize",
    "held_chunks": "base_only_chunks",
    "held_bytes": "base_only_bytes",
}


@dataclass(slots=True)
class Waiting:
    """Sums over the files that wait for a job. They have as many terms as there are such files."""

    files_to_optimize: int = 0
    pending_files: int = 0  # for ingest
    staged_bytes: int = 0
    lost_bytes: int = 0
    grown: int = 0  # bytes of sizes that no flush has recorded yet

    def add_staged(self, staged: StagedFile, recorded: int) -> None:
        """Add a staged file; `recorded` is the size in its inode's record."""
        self.pending_files += 1
        self.staged_bytes += staged.staged_bytes
        self.lost_bytes += staged.lost_bytes
        self.grown += staged.size - recorded


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts and sizes in bytes; modelfs-stats(1) explains each."""

    files: int
    logical_bytes: int
    stored_bytes: int
    disk_bytes: int
    chunks: int
    shared_bytes: int
    staged_bytes: int
    pending_files: int
    files_to_optimize: int
    base_only_chunks: int  # no file uses them, but other chunks derive from them
    base_only_bytes: int
    lost_chunks: int
    lost_bytes: int
    hot_files: int  # that have a copy for the kernel to read; of a mounted store
    hot_bytes: int  # of the copies
    forms: dict[str, FormTotals]
    cache: CacheStatistics

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `stats --json` prints them."""
        fields = asdict(self)
        return fields | {old: fields[new] for old, new in FORMER_KEYS.items()}


class Inventory:
    """Counts the files and the bytes of a store, and lists the files that wait for ingest."""

    def __init__(
        self,
        folder: Directory,
        index: Index,
        counters: Counters,
        cache: ChunkCache,
        inodes: Inodes,
        staging: Staging,
    ) -> None:
        self._folder = folder
        self._index = index
        self._counters = counters
        self._cache = cache
        self._inodes = inodes
        self._staging = staging

    def stored_bytes(self) -> int:
        """Return the number of stored bytes of all chunks."""
        return sum(form.stored_bytes for form in self._counters.forms().values())

    def requested(self, start: int = 0, limit: int | None = None) -> list[InodeNumber]:
        """Return the files for which another pass of ingest was requested. Any thread.

        Args:
            start: the lowest inode.
            limit: the most files; None: all of them, which takes a microsecond each.
        """
        keys = islice(self._index.keys(Table.PENDING, number_key(start)), limit)
        return [InodeNumber(number_of(key)) for key in keys]

    def count_to_optimize(self) -> int:
        """Return the number of files that wait for the optimizer. Any thread; walks over them."""
        return sum(1 for _ in self._index.keys(Table.TO_OPTIMIZE))

    def count_waiting(
        self, staged_files: Iterable[StagedFile], requested: Iterable[InodeNumber], waiting: Waiting
    ) -> None:
        """Add files to the sums for `statistics`. Those that no longer wait are passed over.

        Args:
            staged_files: with staged content.
            requested: some of those of `requested`.
            waiting: the sums.
        """
        for staged in staged_files:
            node = self._inodes.find(staged.inode)
            if node is not None and self._staging.find(staged.inode) is not None:
                waiting.add_staged(staged, node.size)
        waiting.pending_files += sum(self._staging.find(inode) is None for inode in requested)

    def disk_usage(self) -> int:
        """Return the disk space that the store uses, in bytes. Any thread; walks its folder."""
        return disk_usage(Path(self._folder.link))

    def statistics(
        self, disk_bytes: int | None = None, waiting: Waiting | None = None
    ) -> Statistics:
        """Return the statistics of the store.

        Args:
            disk_bytes: a result of `disk_usage`; None: call it now, which takes a while.
            waiting: the sums over all files that wait; None: walk over these files now.
        """
        if waiting is None:
            waiting = Waiting(self.count_to_optimize())
            self.count_waiting(self._staging, self.requested(), waiting)
        forms = self._counters.forms()
        lost = forms.pop("lost", FormTotals())
        return Statistics(
            files=self._counters.get(FILES),
            logical_bytes=self._counters.get(LOGICAL) + waiting.grown,
            stored_bytes=sum(form.stored_bytes for form in forms.values()),
            disk_bytes=self.disk_usage() if disk_bytes is None else disk_bytes,
            chunks=sum(form.chunks for form in forms.values()),
            shared_bytes=self._counters.get(SHARED),
            staged_bytes=waiting.staged_bytes,
            pending_files=waiting.pending_files,
            files_to_optimize=waiting.files_to_optimize,
            base_only_chunks=self._counters.get(BASE_ONLY_CHUNKS),
            base_only_bytes=self._counters.get(BASE_ONLY_BYTES),
            lost_chunks=lost.chunks,
            lost_bytes=lost.raw_bytes + waiting.lost_bytes,
            hot_files=len(self._staging.wholes.copies),
            hot_bytes=self._staging.wholes.copies.bytes,
            forms={name: form for name, form in forms.items() if form.chunks},
            cache=self._cache.statistics(),
        )
