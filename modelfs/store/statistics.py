"""The statistics of a store, as `modelfs stats` shows them."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from modelfs.store.chunks.cache import CacheStatistics

# Former names of keys of `stats --json`, kept beside the new ones for one release.
FORMER_KEYS: Final = {
    "unsettled_files": "files_to_optimize",
    "held_chunks": "base_only_chunks",
    "held_bytes": "base_only_bytes",
}


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
