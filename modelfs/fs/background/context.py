"""The objects that all background jobs share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from modelfs.fs.background.drive import Driver
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.pack_lock import PackLock
from modelfs.fs.handles import Handles
from modelfs.store.store import Store

# As `jobs.steps.Progress`, for callers that send the numbers to another process.
AsyncProgress = Callable[[int, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Context:
    """A store, its open files, and the means to run jobs on it."""

    store: Store
    handles: Handles
    durability: Durability
    driver: Driver
    pack_lock: PackLock
