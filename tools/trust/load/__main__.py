"""Does a mount stand load: no wrong byte, no deadlock, bounded memory, no long stall?

  tools/run trust.load churn   [--minutes 10]   8 processes read, write, rename, delete; then umount
  tools/run trust.load faults  [--seconds 20]   32 threads fault one mapping, with a cache of 16 MiB
  tools/run trust.load names   [--count N]      100,000 files in one directory, and rm -r
  tools/run trust.load extents [--count N]      files of 100,000 extents: read, edit, cut, remove
  tools/run trust.load huge                     a file of 10^15 bytes

Each makes a store of its own in a temporary folder. A probe sends small requests to the mount every
50 ms, and the same to a plain folder beside it: a wait that both have is the machine's. Exits with
1 if a byte was wrong, a process hung, or a bound was exceeded.
"""

import argparse
import signal
import sys
from pathlib import Path

from tools.mounting import Failed
from tools.trust.load.churn import churn
from tools.trust.load.extremes import extents, faults, huge, names
from tools.trust.load.rig import MIB, Rig, rig
from tools.trust.load.table import Table

DATA_TO_CACHE = 10  # ratio of data to cache


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # after the cleanup
    table = Table()
    try:
        with rig(options.folder, options.cache_size * MIB) as mounted:
            _run(options, mounted, table)
    except Failed as exc:
        print(exc, file=sys.stderr)
        return 1
    return int(table.failed)


def _run(options: argparse.Namespace, mounted: Rig, table: Table) -> None:
    match options.what:
        case "churn":
            churn(mounted, table, 60 * options.minutes, DATA_TO_CACHE * mounted.cache_size)
        case "faults":
            faults(mounted, table, options.seconds, DATA_TO_CACHE * mounted.cache_size)
        case "names":
            names(mounted, table, options.count)
        case "extents":
            extents(mounted, table, options.count)
        case _:
            huge(mounted, table)


def _options() -> argparse.Namespace:
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="tools/run trust.load", description=summary)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    commands = parser.add_subparsers(dest="what", required=True)
    for name, cache_size in (
        ("churn", 64),
        ("faults", 16),
        ("names", 64),
        ("extents", 64),
        ("huge", 64),
    ):
        command = commands.add_parser(name)
        command.add_argument("--cache-size", type=int, default=cache_size, help="in MiB")
        if name == "churn":
            command.add_argument("--minutes", type=float, default=10.0)
        if name == "faults":
            command.add_argument("--seconds", type=float, default=20.0)
        if name in ("names", "extents"):
            command.add_argument("--count", type=int, default=100_000)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
