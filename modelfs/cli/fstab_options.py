"""The options of `mount -o`, as mount(8), fstab(5) and fusermount3 spell them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from modelfs.cli.failure import Code, Failure
from modelfs.cli.params import parse_size

# Options that FUSE passes on to the kernel.
PASSED_ON: Final = frozenset(
    {"nosuid", "nodev", "noexec", "suid", "dev", "exec", "sync", "async", "dirsync"}
)
_PAIRS: Final = (("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"), ("async", "sync"))
OPPOSITES: Final = dict(_PAIRS) | {no: yes for yes, no in _PAIRS}
SWITCHES: Final = frozenset({"allow_other", "replace", "nonempty", "trust", "passthrough"})
SIZES: Final = frozenset({"cache_size", "limit", "hot_size"})
# Options passed on with their values: security labels, and the source in the mount table.
NAMED: Final = frozenset({"context", "fscontext", "defcontext", "rootcontext", "fsname"})
# Options for mount(8) and systemd, and options without a meaning here: reads never change access
# times, and the kernel always checks permissions.
IGNORED: Final = frozenset(
    {
        *("defaults", "auto", "noauto", "nofail", "_netdev", "comment", "uhelper", "helper"),
        *("user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion"),
        *("silent", "loud", "mand", "nomand", "default_permissions"),
    }
)


@dataclass(frozen=True, slots=True)
class FstabOptions:
    """The parsed options; None for those that were not given."""

    read_only: bool | None
    allow_other: bool
    cache_size: int | None
    limit: int | None
    hot_size: int | None
    replace: bool
    nonempty: bool
    trust: bool
    passthrough: bool
    passed_on: tuple[str, ...]


def parse_options(texts: Iterable[str]) -> FstabOptions:
    """Parse the values of all `-o`. Of opposites, such as `ro` and `rw`, the last one counts.

    Raises:
        Failure: an option that modelfs does not support.
    """
    read_only: bool | None = None
    switches: set[str] = set()
    sizes: dict[str, int] = {}
    passed_on: dict[str, None] = {}
    for option in (part for text in texts for part in text.split(",") if part):
        name, _, value = option.partition("=")
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif option in SWITCHES:
            switches.add(option)
        elif name in SIZES:
            try:
                sizes[name] = parse_size(value)
            except ValueError as exc:
                raise Failure(f"-o {name}: {exc}", Code.USAGE) from exc
        elif option in PASSED_ON or name in NAMED:
            passed_on.pop(OPPOSITES.get(option, ""), None)
            passed_on[option] = None
        elif name not in IGNORED and not name.lower().startswith("x-"):
            hint = "see `modelfs mount --help` for the options that are"
            if option == "remount":
                hint = "unmount and mount again"
            raise Failure(f"-o {option} is not supported; {hint}", Code.USAGE)
    return FstabOptions(
        read_only,
        "allow_other" in switches,
        sizes.get("cache_size"),
        sizes.get("limit"),
        sizes.get("hot_size"),
        "replace" in switches,
        "nonempty" in switches,
        "trust" in switches,
        "passthrough" in switches,
        tuple(passed_on),
    )
