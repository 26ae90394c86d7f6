"""Does a mount behave as POSIX says, check by check of the pjdfstest suite?

    sudo tools/run trust.pjdfstest SUITE [--plain] [--folder DIR]

SUITE is a checkout of github.com/pjd/pjdfstest, built as its README says; prove(1) comes with perl.
Mounts a new store with --allow-other, runs the suite in it as root, and checks the store's every
byte at the end. --plain runs it in a plain folder instead, to compare with. Prints for each of the
suite's folders the number of checks that passed, and each check that failed; exits with 1 if one
did.

The suite's file `conf` names ext4 as the file system: 29 checks (that a rename changes the status
time) run only on file systems that the suite knows by name.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tools.mounting import modelfs, mounted

# Seconds for one file of the suite; the longest takes half a minute on ext4.
TIMEOUT = 600
FILE = re.compile(r"(\S+/(\w+)/\d+\.t) \.+")
PLAN = re.compile(r"1\.\.(\d+)")
CHECK = re.compile(r"(not )?ok (\d+)(.*)")


@dataclass
class Results:
    """The number of checks in each folder of the suite, and the failed ones."""

    checks: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    ended_well: bool = False


def main() -> int:
    options = _options()
    if problem := _problem(options.suite):
        print(f"tools/run trust.pjdfstest: {problem}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-pjdfstest-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # the suite's users have to get to the mount
        suite, top = _copied(options.suite, folder / "suite"), folder / "top"
        top.mkdir()
        run = _run if options.plain else partial(_run_mounted, folder / "store")
        return _verdict(run(suite, top))


def _problem(suite: Path) -> str | None:
    if os.geteuid() != 0:
        return "the suite needs root, to be several users"
    if not os.access(suite / "pjdfstest", os.X_OK):
        return f"{suite}/pjdfstest is missing: build the suite as its README says"
    if shutil.which("prove") is None:
        return "prove is missing: it comes with perl"
    return None


def _copied(source: Path, suite: Path) -> Path:
    suite.mkdir()
    shutil.copy(source / "pjdfstest", suite)
    shutil.copytree(source / "tests", suite / "tests")
    with (suite / "tests" / "conf").open("a") as conf:
        conf.write("fs=EXT4\n")
    return suite / "tests"


def _run_mounted(store: Path, suite: Path, top: Path) -> Results:
    modelfs("mkfs", store)
    with mounted(store, top, "--allow-other") as mount:
        results = _run(suite, top)
    mount.fsck()
    return results


def _run(suite: Path, top: Path) -> Results:
    results = Results()
    with _proved(suite, top) as prove:
        assert prove.stdout is not None
        for name, lines in _files(prove.stdout):
            folder = name.partition("/")[0]
            if folder not in results.checks:
                print(f"{folder} ...", flush=True)
            _count(results, name, lines)
    results.ended_well = prove.returncode == 0
    return results


@contextmanager
def _proved(suite: Path, top: Path) -> Iterator[subprocess.Popen[str]]:
    prove = ["prove", "--recurse", "--verbose", "--merge", "--exec", f"timeout {TIMEOUT} sh"]
    running = subprocess.Popen(
        [*prove, suite], cwd=top, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        with running:
            yield running
    finally:
        running.kill()


def _files(lines: Iterator[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each file of the suite and the lines that it wrote."""
    name, said = "", list[str]()
    for line in lines:
        if match := FILE.match(line):
            if name:
                yield name, said
            name, said = "/".join(match[1].split("/")[-2:]), []
        said.append(line.rstrip("\n"))
    if name:
        yield name, said


def _count(results: Results, name: str, lines: list[str]) -> None:
    checks = [match for line in lines if (match := CHECK.match(line))]
    planned = max((int(match[1]) for line in lines if (match := PLAN.match(line))), default=0)
    results.checks[name.partition("/")[0]] += max(planned, len(checks))
    for check in checks:
        if check[1] and "# TODO" not in check[3]:
            results.failed.append(f"{name} {check[2]}{check[3]}")
    done = {int(check[2]) for check in checks}
    missing = sorted(set(range(1, planned + 1)) - done)
    results.failed += [f"{name} {number} - was not made" for number in missing]


def _verdict(results: Results) -> int:
    failed = Counter(line.partition("/")[0] for line in results.failed)
    print(f"\n{'':<16}{'checks':>8}{'failed':>8}")
    for folder, checks in sorted(results.checks.items()):
        print(f"{folder:<16}{checks:>8,}{failed[folder]:>8,}")
    total = results.checks.total()
    print(f"{'all':<16}{total:>8,}{failed.total():>8,}")
    for line in results.failed:
        print(f"FAILED: {line}")
    if not results.ended_well and not results.failed:
        print("FAILED: prove(1) says that the suite did not end as it should")
    return 0 if results.ended_well and total else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.pjdfstest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("--plain", action="store_true", help="in a plain folder, not in a mount")
    parser.add_argument("--folder", help="where to put the store or the plain folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
