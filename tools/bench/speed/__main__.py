"""How fast is a mount, beside the file system of its store, and beside other file systems?

    tools/run bench.speed [--work NAME ...] [--size MIB] [--rounds N] [--folder DIR] [--json FILE]

Does works, as programs do them, on each of several systems: a plain folder, a mount of a store in
the same folder, pyfuse3 alone with next to nothing behind it, and, where they are installed,
squashfuse and (as root) btrfs on a loop device, both with zstd. In every round each system has a
turn at a work, one after the other and in alternating order; each turn has its own mount. A first
round warms up, does not count, and compares all bytes with their sources. The works:

    cp, write-1m, write-16k, tar, curl, save_file
                a new model is written: until it is closed, until an fsync, and until everything
                is settled, which is in chunks here
    twice       a stored model is copied in again
    within      a stored model is copied within the mount
    read, load_file, safe_open, map, readers, direct, random
                a plain file is read: for the first time through a mount (the disk's pages are in
                memory), again, and, as root, cold: with nothing in memory
    forms       optimized files are read: a base of BF16, and an F32 fine-tune with its base
    family      optimized files of a real family are read; see --family
    create, git small files are made, checked out, listed and removed
    mount       time and memory
    extents     a file of 100,000 extents is read at its begin and at its end
    chunks      a file is read in a store of 1,000 chunks and in one of 1,000,000; only with --large

Prints medians, the ratio to the plain folder in the same round (the speed, so more is better) with
its lowest and highest value, CPU seconds of the daemon for a GB, ratios of the other systems, and
whether floors are reached. The JSON has all samples. Exits with 1 if a work failed.

With --compare OPT,OPT two mounts are measured, each with one of the options of `modelfs mount -o`;
an empty one stands for none. The option passthrough chooses the floors of mounts that have it.
"""

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from tools.bench.speed import report
from tools.bench.speed.figures import Results
from tools.bench.speed.peers import PEERS
from tools.bench.speed.rounds import Rounds
from tools.bench.speed.sources import Settings, Sources
from tools.bench.speed.turn import Volumes, Work
from tools.bench.speed.volumes import System, modelfs_system, plain_system
from tools.bench.speed.works import LARGE, works
from tools.mounting import CHECKOUT

FAMILY: Final = CHECKOUT / "tests" / "data" / "minilm-slice"


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # after the cleanup
    results = Results()
    systems = _systems(options, results)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as name:
        scratch = Path(name).resolve()
        kind = report.file_system(scratch)
        sources = Sources(scratch / "sources", options.settings)
        volumes = Volumes(scratch / "volumes", sources, results.notes.append)
        rounds = Rounds(systems, volumes, results)
        for work in options.works:
            rounds.run(work)
            if options.json:  # after each, as all together take long
                found = report.document(results, systems, options.settings, kind)
                options.json.write_text(json.dumps(found, indent=2) + "\n")
    report.show(results, systems, kind)
    return 1 if results.failed else 0


def _options() -> argparse.Namespace:
    """Return the options, with `settings` and `works` made of them."""
    parser = argparse.ArgumentParser(
        prog="tools/run bench.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--work", nargs="+", metavar="NAME", help="default: all but chunks")
    add("--large", action="store_true", help="the work chunks, too, which takes minutes")
    add("--size", type=int, default=1024, help="of a model, in MiB; default: 1024")
    add("--rounds", type=int, default=5, help="default: 5")
    add("--files", type=int, default=10_000, help="small ones; default: 10,000")
    add("--extents", type=int, default=100_000, help="default: 100,000")
    add("--chunks", type=int, default=1_000_000, help="of a large store; default: 1,000,000")
    add("--family", type=Path, default=FAMILY, help="a folder of models; default: a small one")
    add("--folder", type=Path, help="where to work; default: the temporary folder")
    add("--mount-option", action="append", default=[], metavar="OPT", help="of modelfs mount -o")
    add("--compare", metavar="OPT,OPT", help="measure two mounts, each with one of the options")
    add("--no-peers", action="store_true", help="without other systems than the plain folder")
    add("--json", type=Path, metavar="FILE", help="write all samples")
    options = parser.parse_args()
    names = (field.name for field in dataclasses.fields(Settings))
    options.settings = Settings(**{name: getattr(options, name) for name in names})
    options.works = _works(parser, options)
    return options


def _works(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Work]:
    """Return the works that are asked for; end with a message if there is no such work."""
    every = works(options.settings)
    names = {work.name for work in every}
    wanted = set(options.work or names - {LARGE}) | ({LARGE} if options.large else set())
    if unknown := wanted - names:
        parser.error(f"no work {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    return [work for work in every if work.name in wanted]


def _systems(options: argparse.Namespace, results: Results) -> list[System]:
    """Return the systems that can be measured here, and note why others cannot."""
    given = options.mount_option
    if options.compare is None:
        ours = [modelfs_system(given)]
    else:
        ours = [modelfs_system(given, option) for option in options.compare.split(",")]
    peers = []
    for peer in () if options.no_peers else PEERS:
        if problem := peer.lacks():
            results.notes.append(f"{peer.system.name}: {problem}")
        else:
            peers.append(peer.system)
    return [plain_system(), *ours, *peers]


if __name__ == "__main__":
    sys.exit(main())
