"""Does a mount pass xfstests' generic quick tests?

    sudo tools/run trust.xfstests SUITE [TEST ...] [--timeout SECONDS] [--folder DIR]

SUITE is a checkout of xfstests-dev, built as its README says; a TEST is one such as generic/001,
by default all that are generic and quick. They run with FSTYP=fuse, on two new stores, whose every
byte is checked at the end. Prints the tests that passed, those not run, with the suite's reason,
and those that failed; exits with 1 if a test failed that has no reason in `xfstests_expected.txt`,
next to this file.

Everything happens in mount and process namespaces of their own, with all mounts, daemons and tests,
which end with them in any case. The users for the suite, and the helper that mount(8) calls for
FUSE, exist only there.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.mounting import CHECKOUT, MODELFS, detach_copies, modelfs

MODULE: Final = "tools.trust.xfstests"
EXPECTED: Final = Path(__file__).with_name("xfstests_expected.txt")
STORES: Final = ("modelfs-test", "modelfs-scratch")
USERS: Final = ("fsgqa", "fsgqa2", "123456-fsgqa")
HELPER: Final = Path("/sbin/mount.fuse3")
RESULT: Final = re.compile(r"(generic/\d+)\s+(?:\d+s \.\.\.\s+)?(.*)")

# mount(8) calls: HELPER SOURCE FOLDER -o OPTIONS -t fuse.modelfs. It does not pass on suid and dev,
# its own defaults. A mount is made read-only and writable again by the kernel alone.
HELPER_SCRIPT: Final = """\
#!/bin/sh
case ,$4, in
*,remount,*)
    case ,$4, in *,ro,*) mode=ro ;; *) mode=rw ;; esac
    exec mount --internal-only -o remount,$mode "$2"
    ;;
esac
exec {modelfs} mount -o "suid,dev,$4,fsname=$1" {folder}/"$1" "$2"
"""
# For the suite, a mount is one of FSTYP only if df prints just that.
DF_SCRIPT: Final = """\
#!/bin/sh
{df} "$@" | sed 's/fuse\\.modelfs/fuse        /'
"""
CONFIG: Final = """\
export FSTYP=fuse FUSE_SUBTYP=.modelfs
export TEST_DEV=modelfs-test TEST_DIR={folder}/test
export SCRATCH_DEV=modelfs-scratch SCRATCH_MNT={folder}/scratch
export MOUNT_OPTIONS=-oallow_other TEST_FS_MOUNT_OPTS=-oallow_other
export RESULT_BASE={folder}/results
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a test: the rest of the line that the suite wrote for it."""

    test: str
    said: str

    @property
    def not_run(self) -> str | None:
        """Why the test was not run, None if it was."""
        _, marker, reason = self.said.partition("[not run] ")
        return reason if marker else None

    @property
    def passed(self) -> bool:
        return re.fullmatch(r"\d+s", self.said) is not None


def main() -> int:
    options = _options()
    if options.inside:
        detach_copies()
        return _run_inside(options)
    if problem := _problem(options.suite):
        print(f"tools/run trust.xfstests: {problem}", file=sys.stderr)
        return 1
    # A shell as the first process, since that has to reap orphaned processes.
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    again = [sys.executable, "-m", MODULE, "--inside"]
    shell = ["sh", "-c", '"$@"; exit $?', "sh", *again]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-xfstests-") as folder:
        Path(folder).chmod(0o755)  # the suite's users have to get to the mounts
        arguments = [options.suite.resolve(), *options.tests, "--timeout", str(options.timeout)]
        return subprocess.run(
            [*unshare, *shell, *arguments, "--folder", folder], check=False
        ).returncode


def _problem(suite: Path) -> str | None:
    if os.geteuid() != 0:
        return "the suite needs root, to mount and to be several users"
    if not os.access(suite / "ltp" / "fsstress", os.X_OK):
        return f"{suite}/ltp/fsstress is missing: build the suite as its README says"
    if not HELPER.exists():
        return f"{HELPER} is missing: it comes with fuse3"
    return None


# -- in the namespaces


def _run_inside(options: argparse.Namespace) -> int:
    folder = Path(options.folder)
    _prepare(folder)
    tests = options.tests or _quick(options.suite)
    results = list(_results(options.suite, folder, tests, options.timeout))
    sound = _checked(folder)
    return _verdict(results, set(tests), folder / "results") or int(not sound)


def _prepare(folder: Path) -> None:
    for name in ("bin", "test", "scratch", "results", *STORES):
        (folder / name).mkdir()
    for store in STORES:
        modelfs("mkfs", folder / store)
    (folder / "local.config").write_text(CONFIG.format(folder=folder))
    command = f"env PYTHONPATH={shlex.quote(str(CHECKOUT))} {shlex.join(MODELFS)}"
    _script(folder / "bin" / "df", DF_SCRIPT.format(df=shutil.which("df")))
    helper = _script(folder / "helper", HELPER_SCRIPT.format(modelfs=command, folder=folder))
    _put_over(HELPER, helper)
    _add_users(folder)


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _put_over(path: Path, other: Path) -> None:
    subprocess.run(["mount", "--bind", other, path], check=True)


def _add_users(folder: Path) -> None:
    lines = {
        "passwd": "{name}:*:{number}:{number}::/:/bin/bash\n",
        "shadow": "{name}:*:20000::::::\n",
        "group": "{name}:x:{number}:\n",
    }
    for name, line in lines.items():
        copy = folder / name
        shutil.copy(Path("/etc", name), copy)
        with copy.open("a") as file:
            file.writelines(
                line.format(name=user, number=number) for number, user in enumerate(USERS, 40_001)
            )
        _put_over(Path("/etc", name), copy)


def _quick(suite: Path) -> list[str]:
    lines = (suite / "tests" / "generic" / "group.list").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [f"generic/{row[0]}" for row in rows if "quick" in row]


def _results(suite: Path, folder: Path, tests: list[str], timeout: float) -> Iterator[Result]:
    environment = dict(os.environ, HOST_OPTIONS=str(folder / "local.config"))
    environment["PATH"] = f"{folder}/bin:{environment['PATH']}"
    check = subprocess.Popen(
        ["./check", *tests],
        cwd=suite,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert check.stdout is not None
    timer = _timer(check.pid, timeout)
    for line in check.stdout:
        timer.cancel()
        timer = _timer(check.pid, timeout)
        print(line, end="", flush=True)
        if match := RESULT.match(line):
            yield Result(match[1], match[2].strip())
    timer.cancel()
    check.wait()


def _timer(check: int, timeout: float) -> threading.Timer:
    """Kill the processes of a test if `check` prints nothing for `timeout` seconds."""
    timer = threading.Timer(timeout, _kill_below, [check])
    timer.daemon = True
    timer.start()
    return timer


def _kill_below(pid: int) -> None:
    for child in list(_descendants(pid)):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _descendants(pid: int) -> Iterator[int]:
    # Daemons are not among them: a process in the background has no parent here.
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _descendants(int(child))
            yield int(child)


def _checked(folder: Path) -> bool:
    """Unmount, and return whether both stores are sound to the last byte."""
    for name in ("test", "scratch"):
        if os.path.ismount(folder / name):
            subprocess.run([*MODELFS, "umount", folder / name], check=False)
    done = [subprocess.run([*MODELFS, "fsck", "--data", folder / s], check=False) for s in STORES]
    return all(result.returncode == 0 for result in done)


# -- the verdict


def _verdict(results: list[Result], tests: set[str], folder: Path) -> int:
    passed = [result for result in results if result.passed]
    not_run = [result for result in results if result.not_run is not None]
    failed = [result for result in results if not result.passed and result.not_run is None]
    expected = _expected()
    unexpected = [result for result in failed if result.test not in expected]
    missing = tests - {result.test for result in results}
    _show_reasons(not_run)
    print("\nfailed, as expected")
    for result in failed:
        if result.test in expected:
            print(f"  {result.test}  {expected[result.test]}")
    print("\nfailed")
    for result in unexpected:
        print(f"  {result.test}  {result.said}")
        _show_difference(folder / f"{result.test}.out.bad")
    print(
        f"\n{len(tests)} tests: {len(passed)} passed, {len(not_run)} not run, {len(failed)} failed"
    )
    print(f"{len(unexpected)} of the failures unexpected, {len(missing)} tests without a result")
    return 1 if unexpected or missing else 0


def _show_reasons(not_run: list[Result]) -> None:
    print("\nnot run")
    reasons = Counter(
        re.sub(r"modelfs-(test|scratch)", "DEV", result.not_run or "") for result in not_run
    )
    for reason, count in reasons.most_common():
        print(f"{count:>5}  {reason}")


def _show_difference(bad: Path) -> None:
    if bad.exists():
        lines = bad.read_text(errors="backslashreplace").splitlines()[:8]
        print(*(f"      {line[:150]}" for line in lines), sep="\n")


def _expected() -> dict[str, str]:
    """Return the tests that are known to fail, with the reason of each."""
    lines = EXPECTED.read_text().splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return {row[0]: row[1] for row in rows}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.xfstests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("tests", nargs="*", metavar="TEST")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a test may take")
    parser.add_argument("--folder", help="where to put the stores")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
