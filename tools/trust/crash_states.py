"""Does a store survive the loss of power at any moment of any work?

    tools/run trust.crash_states [--seeds N] [--first SEED] [--states N] [--jobs N]

For each seed: records random work on a store, operation by operation; chooses states that the disk
may have before and after each fsync, in which each write without an fsync is there, lost or torn;
makes a store from each state, opens it, checks it with all its data, compares every name and byte
with the promises, ingests, collects garbage, and checks again. Does the same for work that went on
after such a state, and for work that went on after the process was killed. Prints the number of
states tried and failed, and the first failures. The model of the disk is explained in
tests/support/crash/disk_model.py.
"""

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from modelfs.errors import ModelfsError
from tests.support.crash.states import (
    Crash,
    check_recovered,
    crashes_at_random,
    folder_in_memory,
    small_units,
)

SHOWN = 10  # failures
FAILURES = (AssertionError, ModelfsError, OSError)


def main() -> int:
    options = _options()
    seeds = range(options.first, options.first + options.seeds)
    tried, failed = Counter[str](), Counter[str]()
    with ProcessPoolExecutor(options.jobs) as pool:
        try:
            for outcomes in pool.map(partial(_try, options.states), seeds):
                for kind, failure in outcomes:
                    tried[kind] += 1
                    failed[kind] += failure is not None
                    if failure is not None and failed.total() <= SHOWN:
                        print(failure, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    print(f"{'after':24} {'states':>8} {'failed':>8}")
    for kind in sorted(tried):
        print(f"{kind:24} {tried[kind]:8} {failed[kind]:8}")
    print(f"{'all':24} {tried.total():8} {failed.total():8}")
    return 1 if failed.total() else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.crash_states",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    parser.add_argument("--seeds", type=int, default=50, help="how many works to record")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--states", type=int, default=30, help="of each kind and work, at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    return parser.parse_args()


def _try(states: int, seed: int) -> list[tuple[str, str | None]]:
    """Return the kind of each state that was tried for a seed, and its failure, if any."""
    outcomes: list[tuple[str, str | None]] = []
    with pytest.MonkeyPatch.context() as patch, folder_in_memory() as folder:
        small_units(patch)
        try:
            crashes = crashes_at_random(seed, folder, states)
            outcomes.extend((crash.kind, _failure(seed, crash, folder)) for crash in crashes)
        except FAILURES as exc:
            outcomes.append(("going on", f"seed {seed}: {type(exc).__name__} {exc}"))
    return outcomes


def _failure(seed: int, crash: Crash, folder: Path) -> str | None:
    try:
        check_recovered(crash, folder / "recovered")
    except FAILURES as exc:
        where = f"seed {seed}, {crash.kind} after {crash.after} operations"
        return f"{where}: {type(exc).__name__} {exc}"
    return None


if __name__ == "__main__":
    sys.exit(main())
