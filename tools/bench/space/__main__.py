"""How much smaller does a store make a model family, compared with other ways to keep it?

    tools/run bench.space [--json] [--no-peers] [--folder DIR] CORPUS
    tools/run bench.space --variants [--json] [--folder DIR] CORPUS

CORPUS is a folder that tools/run corpus made, or any other with models in it. Copies it into a
store, through a mount, and prints the disk space that it takes there and with other ways to keep
it. Then prints, by class, how the store got smaller: identical files, identical tensors, and the
forms of chunks. After a remount with cold caches, reads every file and compares its SHA-256. With
--variants, adds one file of the family after the other, and prints the growth of the store in per
cent of the file's size; that needs a corpus of tools/run corpus.

As root, installs the Debian packages of the other programs, and tries btrfs on a loop device. Takes
twice the corpus's size on the disk. Exits with 1 if a file came back wrong.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.bench.space import ours, tables, variants
from tools.bench.space.classes import Class, classes, identical_bytes
from tools.bench.space.peers import PEERS, Weighed, install, missing, weigh
from tools.corpus import manifest
from tools.mounting import Failed


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # after the cleanup
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-space-") as name:
        scratch = Path(name).resolve()
        corpus: Path = options.corpus.resolve()
        try:
            return (
                _variants(corpus, scratch, options)
                if options.variants
                else _all(corpus, scratch, options)
            )
        except Failed as exc:
            print(f"tools/run bench.space: {exc}", file=sys.stderr)
            return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.space",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variants", action="store_true", help="file by file")
    parser.add_argument("--no-peers", action="store_true", help="modelfs alone")
    parser.add_argument("--json", action="store_true", help="print numbers as JSON")
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("corpus", metavar="CORPUS", type=Path)
    return parser.parse_args()


def _all(corpus: Path, scratch: Path, options: argparse.Namespace) -> int:
    files = {
        path.relative_to(corpus).as_posix(): path
        for path in sorted(corpus.rglob("*"))
        if path.is_file()
    }
    sizes = {name: path.stat().st_size for name, path in files.items()}
    digests = {name: manifest.sha256(path) for name, path in files.items()}
    with ours.fresh(scratch) as mount:
        figures = ours.measure(mount, corpus, digests)
    rows = [*tables.ours(figures), *([] if options.no_peers else _peers(corpus, scratch))]
    identical = identical_bytes((digests[name], sizes[name]) for name in files)
    kinds = classes(figures.optimized or figures.synced, identical)
    if options.json:
        print(json.dumps(_document(figures, rows, kinds), indent=2))
    else:
        _show(figures, rows, kinds, sum(sizes.values()))
    return 1 if figures.wrong else 0


def _peers(corpus: Path, scratch: Path) -> list[Weighed]:
    lacking = sorted({package for peer in PEERS for package in missing(peer)})
    if lacking and os.geteuid() == 0:
        try:
            install(lacking)
        except OSError as exc:
            # The rows name the programs that are missing.
            print(f"tools/run bench.space: {exc}", file=sys.stderr)
    rows = []
    for peer in PEERS:
        print(f"tools/run bench.space: {peer.name} ...", file=sys.stderr)
        rows.append(weigh(peer, corpus, scratch))
    return rows


def _show(figures: ours.Figures, rows: list[Weighed], kinds: list[Class], total: int) -> None:
    tables.show_sizes(rows, total)
    tables.show_classes(kinds, "synced" if figures.optimized is None else "optimized")
    print()
    for name in figures.wrong:
        print(f"WRONG: {name}")
    verdict = (
        f"{len(figures.wrong)} WRONG" if figures.wrong else "every file came back byte for byte"
    )
    print(f"{total:,} bytes of files, read through a new mount: {verdict}")


def _document(figures: ours.Figures, rows: list[Weighed], kinds: list[Class]) -> dict[str, Any]:
    return {
        "modelfs": asdict(figures) | {"optimize_mb_per_second": figures.optimize_speed},
        "sizes": [asdict(row) for row in rows],
        "classes": [asdict(kind) for kind in kinds],
    }


def _variants(corpus: Path, scratch: Path, options: argparse.Namespace) -> int:
    growths = variants.grow(corpus, manifest.read(corpus), scratch)
    if options.json:
        print(
            json.dumps(
                [asdict(growth) | {"percent": growth.percent} for growth in growths], indent=2
            )
        )
    else:
        tables.show_variants(growths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
