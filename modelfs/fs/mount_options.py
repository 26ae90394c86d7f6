"""What a mount is to be. Without pyfuse3, so that the command line works where FUSE is missing."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What to mount where, and how."""

    store: Path
    mountpoint: Path
    cache_size: int  # bytes of decoded chunks kept in memory
    read_only: bool
    allow_other: bool
    limit: int | None  # bytes that the store may take on its disk
    options: tuple[str, ...]  # more options for the kernel, as fusermount3 takes them
