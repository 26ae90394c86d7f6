"""The statistics of a store, as `modelfs stats` shows them."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from modelfs.store.chunks.cache import CacheStatistics
from modelfs.store.files.staged_file import StagedFile

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
    forms: dict[str, dict[str, int]]
    cache: CacheStatistics

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `stats --json` prints them."""
        fields = asdict(self)
        return fields | {old: fields[new] for old, new in FORMER_KEYS.items()}
