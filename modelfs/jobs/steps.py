"""The steps that a job yields to its driver. Pure: nothing here blocks.

Theory of operation. A job is a generator. It runs on the thread that owns the store, and yields a
step where a call is slow, where other work may run in between, or where it needs a commit. A job
uses neither trio nor threads, so the same job runs in a daemon, beside its requests, and on an
unmounted store. `jobs.drive` runs jobs on the calling thread; `fs.background.drive` runs them on an
event loop.

Between two steps a job has the store to itself. During a step, files may be written, removed and
renamed, and commits happen. So after a step a job looks up again all that it needs.

A job that appends to packs, or deletes some, yields its part that does so as a `Hold`. In a daemon
the driver runs that part with the pack lock; an unmounted store has no other job, and needs none.

Example. A job that rewrites one pack with three chunks::

    def rewrite(store, pack):
        return exclusive(rewritten(store, pack))    # a `Hold`: no reader has the pack pinned

    def rewritten(store, pack):
        with store.writing() as writer:
            result = yield Work(partial(copy_live, store, pack, writer))   # any thread
        yield from pausing(store.publish(result))    # a change of the index, a pause, a change, ...
        freed = store.reclaimer.retire(pack)
        yield Commit()                               # now the pack's file is deleted
        return freed
"""

import enum
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")

# At a pause, drivers commit when more changes than this are in memory, some 300 bytes each.
CHANGES_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Work:
    """A slow call, for any thread. Its result, or its exception, comes back at the `yield`."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """The end of a slice of changes: requests may run, and a commit may be made."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of all changes made so far, durable when the job goes on. It may raise."""


class Right(enum.Enum):
    """A right on the packs of a store, which one job has at a time."""

    APPEND = enum.auto()  # to packs
    EXCLUSIVE = enum.auto()  # to append, and to delete packs, once no reader has any pinned
    UNLESS_PINNED = enum.auto()  # the same, but while packs are pinned the job is left out


@dataclass(frozen=True, slots=True)
class Hold:
    """A job that needs a right on packs, and has no `Hold` among its own steps.

    Its result, or its exception, comes back at the `yield`; None if it was left out.
    """

    right: Right
    job: "Job[Any]"


Step = Work | Pause | Commit | Hold
Job = Generator[Step, Any, T]

# Called with the amount that is done, and the whole amount: bytes, or files.
Progress = Callable[[int, int], None]


def pausing(slices: Iterable[object]) -> Job[None]:
    """Exhaust an iterator that does a slice of work for each item, with a pause after each."""
    for _ in slices:
        yield Pause()


def appending(job: Job[T]) -> Job[T]:
    """Run a job while no other one appends to packs."""
    result: T = yield Hold(Right.APPEND, job)
    return result


def exclusive(job: Job[T]) -> Job[T]:
    """Run a job while no other one appends to packs, and no reader needs packs to stay."""
    result: T = yield Hold(Right.EXCLUSIVE, job)
    return result


def unless_pinned(job: Job[T]) -> Job[T | None]:
    """Run a job as `exclusive` does; return None at once while a reader needs packs to stay."""
    result: T | None = yield Hold(Right.UNLESS_PINNED, job)
    return result


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in order, `size` at a time: those of one change of the index."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
