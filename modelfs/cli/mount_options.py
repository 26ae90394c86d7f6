"""The options of `mount -o`: what mount(8), fstab(5) and fusermount3 call them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from modelfs.cli.failure import Code, Failure
from modelfs.cli.params import parse_size

# For the kernel; FUSE passes them on.
PASSED_ON: Final = frozenset(
    {"nosuid", "nodev", "noexec", "suid", "dev", "exec", "sync", "async", "dirsync"}
)
SIZES: Final = frozenset({"cache_size", "limit"})
# Security labels, and what the mount table names as the source: as they are.
NAMED: Final = frozenset({"context", "fscontext", "defcontext", "rootcontext", "fsname"})
# For mount(8) and systemd, or of no meaning here: access times do not change by reading, and the
# kernel always checks permissions.
IGNORED: Final = frozenset(
    {
        *("defaults", "auto", "noauto", "nofail", "_netdev", "comment", "uhelper", "helper"),
        *("user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion"),
        *("silent", "loud", "mand", "nomand", "default_permissions", "nonempty"),
    }
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What `-o` asks for. None where it says nothing."""

    read_only: bool | None
    allow_other: bool
    cache_size: int | None
    limit: int | None
    replace: bool
    passed_on: tuple[str, ...]


def parse_options(texts: Iterable[str]) -> Parsed:
    """Understand the values of all `-o`. Of `ro` and `rw` the last one counts.

    Raises:
        Failure: an option that means something, but not to modelfs.
    """
    read_only: bool | None = None
    allow_other = False
    replace = False
    sizes: dict[str, int] = {}
    passed_on: dict[str, None] = {}
    for option in (each for text in texts for each in text.split(",") if each):
        name, _, value = option.partition("=")
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif option == "allow_other":
            allow_other = True
        elif option == "replace":
            replace = True
        elif name in SIZES:
            sizes[name] = _size(name, value)
        elif option in PASSED_ON or name in NAMED:
            passed_on[option] = None
        elif name not in IGNORED and not name.lower().startswith("x-"):
            raise _unknown(option)
    return Parsed(
        read_only,
        allow_other,
        sizes.get("cache_size"),
        sizes.get("limit"),
        replace,
        tuple(passed_on),
    )


def _size(name: str, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as exc:
        raise Failure(f"-o {name}: {exc}", Code.USAGE) from exc


def _unknown(option: str) -> Failure:
    if option == "remount":
        return Failure("-o remount is not possible; unmount and mount again", Code.USAGE)
    return Failure(f"-o {option} is not known; see `modelfs mount --help` for what is", Code.USAGE)
