"""What do the checksum of a row, and the watchdog of a step, cost?

Times the checksum of rows with the sizes that extents and chunks have, and the calls that the
watchdog gets around a step of a task and after a wait of the loop. Prints the best of several
rounds for each, in microseconds.
"""

import argparse
import timeit
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Final, cast

import trio

from modelfs.fs.watchdog import Watchdog
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.records import Extent
from modelfs.store.index.row_checksum import checked, with_checksum
from modelfs.store.index.tables import Table, number_key, pair_key

CALLS: Final = 100_000
ROUNDS: Final = 7
ROWS: Final = (
    (Table.EXTENTS, pair_key(7, 1 << 20), bytes(Extent.LAYOUT.size)),
    (Table.CHUNKS, number_key(7), bytes(Chunk.LAYOUT.size)),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.overhead", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--calls", type=int, default=CALLS, help=f"default: {CALLS:,}")
    calls = parser.parse_args().calls
    for table, key, value in ROWS:
        stored = with_checksum(table, key, value)
        _show(f"read a row of {table.value}", partial(checked, table, key, stored), calls)
        _show(f"write a row of {table.value}", partial(with_checksum, table, key, value), calls)
    watchdog = Watchdog()
    task = cast("trio.lowlevel.Task", SimpleNamespace(name=""))  # the watchdog needs no more of it

    def step() -> None:
        watchdog.before_task_step(task)
        watchdog.after_task_step(task)

    _show("watch a step", step, calls)
    _show("watch a wait", partial(watchdog.after_io_wait, 0), calls)
    return 0


def _show(name: str, call: Callable[[], object], calls: int) -> None:
    best = min(timeit.repeat(call, number=calls, repeat=ROUNDS)) / calls
    print(f"{name:24} {1e6 * best:6.2f} us")


if __name__ == "__main__":
    raise SystemExit(main())
