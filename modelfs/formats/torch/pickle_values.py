"""The values that a scan of a pickle keeps, and the tree that they make.

Example. Of `{"model": {"w": tensor, "step": 7}, "epoch": 3}` this tree is left::

    Container  "model" -> Container  "w" -> 0    (index of the tensor's storage)

and `paths` yields `(0, "model.w")`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.formats.budget import Borrowed
from modelfs.formats.names import MAX_NAME

# Containers within containers: those that a model's parts are in do not go so deep.
MAX_DEPTH: Final = 100

# The memory of an entry of a container, and of a container, in bytes.
ENTRY: Final = 50
CONTAINER: Final = 250


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that the pickle names. It is not imported."""

    name: str  # without its module, and empty if that is not torch's


@dataclass(frozen=True, slots=True)
class Storage:
    """A record `data/N` of the archive."""

    index: int  # in `Storages`


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage."""

    index: int  # of its storage


@dataclass(slots=True)
class Container:
    """The tensors and containers of a dict, list, tuple, set or object."""

    # Key, value, key, value, and so on; the value of a tensor is the index of its storage.
    entries: "list[str | int | Container]" = field(default_factory=list)
    count: int = 0  # of values appended, those that are no entries included
    depth: int = 0

    def enter(self, key: str | int, value: "Value", tree: Borrowed) -> None:
        """Make a value an entry if it is a tensor, or a container that has any.

        Args:
            key: under which the value lies here.
            value: any value.
            tree: the budget of entries.

        Raises:
            MalformedModel: there is no memory for it.
        """
        if isinstance(value, Container):
            if not value.entries or value.depth >= MAX_DEPTH:
                return
            tree.reserve(CONTAINER)
            self.depth = max(self.depth, value.depth + 1)
        elif not isinstance(value, Tensor):
            return
        tree.reserve(ENTRY)
        self.entries += (key, value.index if isinstance(value, Tensor) else value)

    def absorb(self, other: "Container") -> None:
        """Let the entries of another container be entries of this one, too."""
        self.entries += other.entries
        self.depth = max(self.depth, other.depth)


# None is any value that is none of these, such as a float.
Value = Global | Storage | Tensor | Container | int | str | tuple["Value", ...] | None


def paths(root: Value) -> Iterator[tuple[int, str]]:
    """Yield the storage of each tensor in a tree and the path that leads there, in order."""
    if not isinstance(root, Container):
        return
    open_containers = [(iter(root.entries), "")]
    while open_containers:
        entries, prefix = open_containers[-1]
        if (key := next(entries, None)) is None:
            open_containers.pop()
            continue
        value = next(entries)
        path = f"{prefix}{key}"[:MAX_NAME]
        if isinstance(value, int):
            yield value, path
        elif isinstance(value, Container):
            open_containers.append((iter(value.entries), f"{path}."))
