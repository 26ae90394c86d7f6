"""Names of tensors in formats that have none: the path that leads to a tensor.

Example. Three tensors at the paths `layer/w`, `layer/w` and `layer/b` are called `layer/w`,
`layer/w#2` and `layer/b`.
"""

from collections import Counter
from typing import Final

# A bound on memory, several times what large models have: names of 150 bytes.
MAX_NAME: Final = 512


class UniqueNames:
    """The names given so far."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def add(self, path: str) -> str:
        """Return a name that no other path has got; one that is absurdly long is cut."""
        path = name = path[:MAX_NAME]
        while self._given[name]:
            self._given[path] += 1
            name = f"{path}#{self._given[path]}"
        self._given[name] = 1
        return name
