"""What every background job works with."""

from dataclasses import dataclass

from modelfs.fs.background.drive import Driver
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.pack_lock import PackLock
from modelfs.fs.handles import Handles
from modelfs.store.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    """The store, who uses it, and how jobs are run on it."""

    store: Store
    handles: Handles
    durability: Durability
    driver: Driver
    pack_lock: PackLock
