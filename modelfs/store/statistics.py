"""What `modelfs stats` tells about a store."""

from dataclasses import dataclass
from pathlib import Path

from modelfs.store.chunks.cache import CacheStatistics


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of things and bytes; see the README for what each means."""

    files: int
    logical_bytes: int
    stored_bytes: int
    disk_bytes: int
    chunks: int
    shared_bytes: int
    staged_bytes: int
    pending_files: int
    unsettled_files: int  # that the optimizer has not looked at
    held_chunks: int  # that no file uses, but others derive from
    held_bytes: int
    lost_chunks: int
    lost_bytes: int
    forms: dict[str, dict[str, int]]
    cache: CacheStatistics


def disk_usage(folder: Path) -> int:
    """Return the disk space of everything in a folder, in bytes, as du(1) counts it."""
    total = folder.lstat().st_blocks * 512
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue  # deleted since it was listed
    return total
