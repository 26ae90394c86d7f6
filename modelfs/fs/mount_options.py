"""The options of a mount. Free of pyfuse3, so that the command line works where FUSE is missing."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """A store, its mount point, and the options of `modelfs mount`."""

    store: Path
    mountpoint: Path
    cache_size: int  # bytes of decoded chunks kept in memory
    read_only: bool
    allow_other: bool
    limit: int | None  # bytes that the store may take on its disk; None: the whole disk
    options: tuple[str, ...]  # further options for the kernel, as fusermount3 spells them
    trust: bool = False  # see `Store`
    passthrough: bool = False  # let the kernel read and write new files itself, if it can
    hot_size: int | None = None  # bytes of copies that the kernel reads; None: a part of the room

    @property
    def passes_through(self) -> bool:
        """Whether to ask the kernel for passthrough. Only root may give it files."""
        return self.passthrough and not (self.read_only or self.is_sync or os.geteuid())

    @property
    def is_sync(self) -> bool:
        """Whether a change of content is durable before its reply."""
        return "sync" in self.options

    @property
    def commits_names(self) -> bool:
        """Whether a change of names is durable before its reply: `sync` or `dirsync`, mount(8)."""
        return not {"sync", "dirsync"}.isdisjoint(self.options)

    def for_kernel(self) -> set[str]:
        """Return the options that libfuse passes to the kernel."""
        options = {"subtype=modelfs", "default_permissions", *map(_in_ascii, self.options)}
        if not any(option.startswith("fsname=") for option in self.options):
            # Escaped for libfuse, where a comma ends an option.
            source = str(self.store).replace("\\", "\\\\").replace(",", "\\,")
            options.add(_in_ascii(f"fsname={source}"))
        # Files of the mount give no rights beyond those of its users, unless root asks for that.
        options |= {f"no{right}" for right in ("suid", "dev") if right not in options}
        if self.allow_other:
            options.add("allow_other")
        if self.read_only:
            options.add("ro")
        return options


def _in_ascii(option: str) -> str:
    """Return an option with each byte that is not ASCII as an octal number, as libfuse reads it.

    pyfuse3 takes options in ASCII only.
    """
    octal = (chr(byte) if byte < 0x80 else f"\\{byte:03o}" for byte in os.fsencode(option))
    return "".join(octal)
