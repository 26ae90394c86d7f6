"""What a job may ask of whoever runs it. Pure: nothing here waits.

Theory of operation. A job is a generator. It runs on the thread that owns the store, and yields a
step when something slow is to be done elsewhere, when others may run, or when it needs a commit. It
knows neither trio nor threads, so the same job runs in a daemon, beside its requests, and on a
store that nobody has mounted. `jobs.drive` runs jobs here and now; `fs.background.drive` runs them
on an event loop.

Between two steps nobody else touches the store. At a step others may: files may be written, removed
and renamed, and commits happen. So a job looks again at what it found before the step.

Example. A job that rewrites one pack with three chunks::

    def rewrite(store, pack):
        with store.writing() as writer:
            result = yield Work(partial(copy_live, store, pack, writer))   # any thread
        yield from pausing(store.publish(result))    # a change of the index, a pause, a change, ...
        freed = store.reclaimer.retire(pack)
        yield Commit()                               # now the pack's file is deleted
        return freed
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Drivers commit at a pause when so many changes wait: each is some 300 bytes of memory.
CHANGES_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Work:
    """Something slow that any thread may do. The step's value is the call's; it may raise."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """A slice of changes is done; others may run."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Make all changes made so far durable before going on. It may raise."""


Step = Work | Pause | Commit
Job = Generator[Step, Any, T]


def pausing(slices: Iterable[object]) -> Job[None]:
    """Go through work that is done in slices, with a pause after each."""
    for _ in slices:
        yield Pause()


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield items in order, `size` at a time: as many as are changed in one go."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
