"""Names of tensors where a format has none of its own: the path that leads to one."""

from collections import Counter
from typing import Final

# A bound on memory, several times what large models have: names of 150 bytes.
MAX_NAME: Final = 512


class UniqueNames:
    """Names given so far. What would be called `w` a second time is `w#2`."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def add(self, path: str) -> str:
        """Return a name for what a path leads to, cut where it would be absurdly long."""
        path = name = path[:MAX_NAME]
        while self._given[name]:
            self._given[path] += 1
            name = f"{path}#{self._given[path]}"
        self._given[name] = 1
        return name
