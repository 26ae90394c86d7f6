"""Does a reader beside a busy mount ever see bytes that no commit had?

    tools/run trust.reader [--minutes 5] [--folder DIR]

A store is mounted, and for some minutes programs write to it: models are replaced by rename, and
overwritten in place, blocks are rewritten at random and cut off, names come and go; the daemon
ingests, optimizes, scrubs and collects garbage. Beside it processes read the store through
`modelfs.open`: threads that share a reader while their process forks, pools of processes of every
kind, and readers that are opened and closed. Each byte is compared with those that the version had
which may be there. Then the mount ends, and the store is checked. Exit code 1 at any fault.
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tools.mounting import Failed, Mount, modelfs
from tools.trust.reader import readers, writers
from tools.trust.reader.content import Versions
from tools.trust.reader.readers import Counts


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.reader", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-reader-") as scratch:
        try:
            run(Path(scratch), 60 * options.minutes)
        except (Failed, AssertionError) as exc:
            print(f"FAULT: {exc}", file=sys.stderr)
            return 1
    return 0


def run(scratch: Path, seconds: float) -> None:
    """Run writers and readers, and print the counts.

    Raises:
        AssertionError: a reader saw something that it must not.
        Failed: the mount or the store is not sound.
    """
    store, place = scratch / "store", scratch / "versions"
    modelfs("mkfs", "--chunk-size", "64KiB", store)
    mount = Mount(store, scratch / "mnt")
    try:
        mount.start()
        writers.prepare(mount.path, Versions(place))
        written, read = _all_at_once(mount, store, place, seconds)
        mount.finish()
    finally:
        mount.abandon()
    _show(written, read)


def _all_at_once(
    mount: Mount, store: Path, place: Path, seconds: float
) -> tuple[dict[str, int], dict[str, Counts]]:
    stop = time.time() + seconds
    workers = len(writers.KINDS) + len(readers.KINDS)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        writing = {
            kind: pool.submit(writers.write_forever, kind, mount.path, place, stop)
            for kind in writers.KINDS
        }
        reading = {
            kind: pool.submit(readers.read_forever, kind, store, place, stop, seed)
            for seed, kind in enumerate(readers.KINDS)
        }
        all_of_it: list[Future[Any]] = [*writing.values(), *reading.values()]
        done, _ = wait(all_of_it, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return (
            {kind: future.result() for kind, future in writing.items()},
            {kind: future.result() for kind, future in reading.items()},
        )


def _show(written: dict[str, int], read: dict[str, Counts]) -> None:
    for kind, steps in written.items():
        print(f"written  {kind:10} {steps} times")
    for kind, counts in read.items():
        print(f"read     {kind:10} {counts.bytes / 1e9:.2f} GB, slowest {counts.slowest:.1f} s")
        print("    " + ", ".join(f"{name} {count}" for name, count in sorted(counts.reads.items())))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory of a process: {peak >> 10} MiB")


if __name__ == "__main__":
    sys.exit(main())
