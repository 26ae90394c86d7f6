"""Does any input make modelfs crash, hang, or take more than 64 MiB?

    tools/run trust.fuzz TARGET... [--seconds 600] [--corpus FOLDER]

Coverage-guided fuzzing by Atheris (libFuzzer) of the targets in `tests/fuzz`, one after the other,
from their seeds and from `tests/fuzz/corpus`. An input fails if the target raises, takes over 10 s,
or lets the process grow by more than 64 MiB; it is printed, and the exit code is 1. Works in a
temporary folder; with `--corpus`, puts the smallest inputs with the same coverage, and the failed
ones, into FOLDER/TARGET.
"""

import argparse
import importlib
import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.mounting import CHECKOUT

MODULE: Final = "tools.trust.fuzz"
CORPUS: Final = CHECKOUT / "tests" / "fuzz" / "corpus"
NAMES: Final = sorted(folder.name for folder in CORPUS.iterdir())
INPUT_MAX: Final = 1 << 20
INPUT_SECONDS: Final = 10  # instrumented code is several times slower
GROWTH_MAX: Final = 64 << 20
SHOWN: Final = 512  # bytes of an input that failed

WORKER: Final = "--worker"
INSTALL: Final = "no atheris: .venv/bin/pip install -c constraints.txt --group fuzz"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of fuzzing one target."""

    runs: int
    edges: int
    kept: int
    growth: int  # bytes
    failed: tuple[Path, ...]
    status: int
    output: str

    @property
    def sound(self) -> bool:
        return not self.failed and not self.status


def main() -> None:
    options = _options()
    if importlib.util.find_spec("atheris") is None:
        sys.exit(f"tools/run trust.fuzz: {INSTALL}")
    failed = False
    print(f"{'target':12}{'seconds':>8}{'runs':>12}{'edges':>7}{'inputs':>8}{'MiB more':>10}")
    for name in options.targets or NAMES:
        with tempfile.TemporaryDirectory(prefix="modelfs-fuzz-") as scratch:
            outcome = _fuzz(name, options.seconds, Path(scratch))
            _show(name, options.seconds, outcome)
            failed |= not outcome.sound
            if options.corpus is not None:
                _keep(name, Path(scratch), options.corpus / name)
    sys.exit(1 if failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.fuzz", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument(
        "targets", nargs="*", choices=[*NAMES, []], metavar="TARGET", help=", ".join(NAMES)
    )
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="where to put inputs")
    return parser.parse_args()


def _fuzz(name: str, seconds: int, scratch: Path) -> Outcome:
    found, failed, growth = scratch / "found", scratch / "failed", scratch / "growth"
    for folder in (found, failed, scratch / "seeds"):
        folder.mkdir()
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_MAX}",
        f"-timeout={INPUT_SECONDS}",
        f"-artifact_prefix={failed}/",
        "-print_final_stats=1",
        *map(str, (found, scratch / "seeds", CORPUS / name)),
    ]
    status, output = _worker(name, scratch, flags)
    if not growth.exists():
        sys.exit(f"{output}\ntools/run trust.fuzz: {name} did not begin")
    statistics = dict(re.findall(r"stat::(\w+): +(\d+)", output))
    edges = re.findall(r" cov: (\d+) ", output)
    return Outcome(
        runs=int(statistics.get("number_of_executed_units", 0)),
        edges=int(edges[-1]) if edges else 0,
        kept=sum(1 for _ in found.iterdir()),
        growth=int(growth.read_text()),
        failed=tuple(sorted(failed.iterdir())),
        status=status,
        output=output,
    )


def _worker(name: str, scratch: Path, flags: list[str]) -> tuple[int, str]:
    """Run libFuzzer in a process, which it ends; return the status and output."""
    command = [sys.executable, "-m", MODULE, WORKER, name, str(scratch), *flags]
    with (scratch / "log").open("w+") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
        log.seek(0)
        return done.returncode, log.read()


def _show(name: str, seconds: int, outcome: Outcome) -> None:
    print(
        f"{name:12}{seconds:8}{outcome.runs:12,}{outcome.edges:7}{outcome.kept:8}"
        f"{outcome.growth / (1 << 20):10.1f}",
        flush=True,
    )
    if not outcome.sound:
        print(outcome.output[-4000:])
    for path in outcome.failed:
        content = path.read_bytes()
        print(f"FAILED: {path.name}, {len(content)} bytes: {content[:SHOWN]!r}")


def _keep(name: str, scratch: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    merged = scratch / "merged"
    merged.mkdir()
    sources = (folder, scratch / "found", scratch / "seeds")
    _worker(name, scratch, ["-merge=1", *map(str, (merged, *sources))])
    for path in (*merged.iterdir(), *(scratch / "failed").iterdir()):
        shutil.copy(path, folder)


def _work(name: str, scratch: Path, flags: list[str]) -> None:
    """Fuzz in this process, until libFuzzer ends it."""
    logging.disable()
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["modelfs"]):
        targets = importlib.import_module("tests.fuzz.targets")
    target = targets.TARGETS[name]
    if target.words:
        words = scratch / "words"
        words.write_text("".join(f"{_quoted(word)}\n" for word in target.words))
        flags = [f"-dict={words}", *flags]
    for number, seed in enumerate(target.seeds()):
        (scratch / "seeds" / f"{number:04}").write_bytes(seed)
    # The command that libFuzzer runs for each part of a merge, through a shell.
    again = shlex.join([sys.executable, "-m", MODULE, *sys.argv[1:4]])
    work = Path(tempfile.mkdtemp(dir=scratch))  # of each of the processes that merge, too
    with target.prepare(work) as run:
        atheris.Setup([again, *flags], _Measured(run, scratch / "growth"))
        atheris.Fuzz()


class _Measured:
    """A target that fails if an input makes the process grow too much.

    Each input is measured separately: code that atheris has instrumented leaks some memory at
    every comparison, 4 KiB with each input of `derivations`, and none without atheris.
    """

    def __init__(self, run: Callable[[bytes], None], report: Path) -> None:
        self._run = run
        self._report = report
        self._most = 0
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        report.write_text("0")

    def __call__(self, content: bytes) -> None:
        os.write(self._reset, b"5")  # resets the peak to the present use: proc_pid_clear_refs(5)
        base = self._peak()
        self._run(content)
        if (growth := self._peak() - base) > self._most:
            self._most = growth
            self._report.write_text(str(growth))
            if growth > GROWTH_MAX:
                raise MemoryError(f"{growth} bytes more than before")

    def _peak(self) -> int:
        _, _, text = os.pread(self._status, 4096, 0).partition(b"VmHWM:")
        return int(text.split()[0]) << 10


def _quoted(word: str) -> str:
    """Return a word as libFuzzer's dictionaries have it (llvm.org/docs/LibFuzzer.html)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        _work(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
