"""Does fio(1) read its own bytes back from a mount: at once, from chunks, and after a remount?

    tools/run trust.fio_verify [--size MIB] [--quick]

For every pattern, engine, block size and number of jobs: writes files whose blocks carry checksums
and verifies them; verifies again when `modelfs sync` has put them into chunks, and once more, with
cold caches, when the store is mounted again. Then overwrites the stored files with other content,
and does it all again. Works in a temporary store and mount, which is checked with fsck at the end.
Prints a table; exits with 1 if anything was wrong. Needs the Debian package fio.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.mounting import Failed, Mount, drop_kernel_caches, modelfs

PATTERNS: Final = ("write", "randwrite", "randrw")
ENGINES: Final = ("psync", "mmap")
BLOCKS: Final = ("4k-4k", "4k-1m")
JOBS: Final = (1, 8)
ROUNDS: Final = ("new", "over")
COMMON: Final = (
    "--name=v",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--verify_state_save=0",  # it would lie in the current folder
    "--output-format=json",
)
DEADLINE: Final = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class Case:
    """One way of writing and verifying."""

    pattern: str
    engine: str
    blocks: str  # smallest and largest
    jobs: int
    round: str

    def arguments(self, folder: Path, mib: int) -> list[str]:
        return [
            *COMMON,
            f"--directory={folder}",
            f"--rw={self.pattern}",
            f"--ioengine={self.engine}",
            f"--bsrange={self.blocks}",
            f"--numjobs={self.jobs}",
            f"--size={mib // self.jobs}m",
            f"--randseed={1 + ROUNDS.index(self.round)}",
        ]


def main() -> int:
    options = _options()
    if shutil.which("fio") is None:
        print("fio is not installed; as root run: apt-get install fio", file=sys.stderr)
        return 1
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelfs-fio-") as scratch:
        failed = _verify(Mount(Path(scratch, "store"), Path(scratch, "mnt")), options)
    print(f"{failed} failed, in {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.fio_verify", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--size", type=int, default=64, help="of all files of a case, in MiB")
    parser.add_argument("--quick", action="store_true", help="only one job, and mixed block sizes")
    return parser.parse_args()


def _verify(mount: Mount, options: argparse.Namespace) -> int:
    """Run all cases, print a row for each, and return how many steps failed."""
    blocks, jobs = (BLOCKS[1:], JOBS[:1]) if options.quick else (BLOCKS, JOBS)
    failed = 0
    print("pattern    engine  blocks  jobs  file  written   MiB  at once  stored  mounted again")
    try:
        modelfs("mkfs", mount.store)
        mount.start()
        for fields in itertools.product(PATTERNS, ENGINES, blocks, jobs, ROUNDS):
            case = Case(*fields)
            failed += _run_case(mount, case, options.size)
        mount.finish()
    except Failed as exc:
        print(f"{exc}\n{mount.log()}")
        failed += 1
    finally:
        mount.abandon()
    return failed


def _run_case(mount: Mount, case: Case, mib: int) -> int:
    folder = mount.path / f"{case.pattern}-{case.engine}-{case.blocks}-{case.jobs}"
    folder.mkdir(exist_ok=True)
    arguments = case.arguments(folder, mib)
    results = list(_steps(mount, arguments))
    written = sum(path.stat().st_size for path in folder.iterdir())
    words = ["ok" if not problem else "WRONG" for problem in results]
    print(
        f"{case.pattern:9}  {case.engine:6}  {case.blocks:6}  {case.jobs:4}  {case.round:4}  "
        f"{written >> 20:12}  {words[0]:>7}  {words[1]:>6}  {words[2]:>13}",
        flush=True,
    )
    for problem in filter(None, results):
        print(problem)
    if case.round == ROUNDS[-1]:
        shutil.rmtree(folder)
    return sum(bool(problem) for problem in results)


def _steps(mount: Mount, arguments: list[str]) -> Iterator[str]:
    yield _fio([*arguments, "--do_verify=1"])
    mount.sync()
    drop_kernel_caches()
    yield _fio([*arguments, "--verify_only"])
    mount.remount()
    yield _fio([*arguments, "--verify_only"])


def _fio(arguments: list[str]) -> str:
    """Run fio and return its errors, an empty text if there are none."""
    done = subprocess.run(
        ["fio", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    try:
        jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    except ValueError:
        return f"fio ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    if done.returncode or any(job["error"] for job in jobs):
        return done.stderr or done.stdout
    read = sum(job["read"]["io_bytes"] for job in jobs)
    return "" if read else "fio verified nothing"


if __name__ == "__main__":
    sys.exit(main())
