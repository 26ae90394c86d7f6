"""Sets of byte offsets, kept as sorted half-open ranges.

Example. `RangeSet([(0, 10), (10, 20)])` has one range, `[0, 20)`. `remove(5, 8)` makes it `[0, 5)`
and `[8, 20)`; `within(3, 10)` then yields `(3, 5)` and `(8, 10)`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """Disjoint ranges `[start, stop)` in order; neighbours that touch are one range."""

    __slots__ = ("_starts", "_stops", "size")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.size = 0  # how many offsets are in the set
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # it may change

    @property
    def stop(self) -> int:
        """One past the last offset, 0 when empty."""
        return self._stops[-1] if self._stops else 0

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        first = bisect_left(self._stops, start)  # the first range that touches or follows
        last = bisect_right(self._starts, stop)  # one past the last that touches
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self.size += stop - start - sum(self._stops[first:last]) + sum(self._starts[first:last])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        left, right = self._starts[first], self._stops[last - 1]
        kept = [(a, b) for a, b in ((left, start), (stop, right)) if a < b]
        self.size += sum(b - a for a, b in kept)
        self.size += sum(self._starts[first:last]) - sum(self._stops[first:last])
        self._starts[first:last] = [a for a, _ in kept]
        self._stops[first:last] = [b for _, b in kept]

    def within(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of the set inside `[start, stop)`, in order."""
        for at in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[at] >= stop:
                return
            yield max(start, self._starts[at]), min(stop, self._stops[at])

    def update(self, other: "RangeSet") -> None:
        """Add all offsets of another set."""
        for start, stop in other:
            self.add(start, stop)

    def common(self, other: "RangeSet") -> "RangeSet":
        """Return the offsets that both sets have."""
        return RangeSet(part for start, stop in other for part in self.within(start, stop))

    def without(self, other: "RangeSet") -> "RangeSet":
        """Return the offsets that this set has, and the other one has not."""
        left = self.copy()
        for start, stop in other:
            left.remove(start, stop)
        return left

    def shifted(self, by: int) -> "RangeSet":
        """Return the set with `by` added to every offset."""
        moved = RangeSet()
        moved._starts = [start + by for start in self._starts]
        moved._stops = [stop + by for stop in self._stops]
        moved.size = self.size
        return moved

    def copy(self) -> "RangeSet":
        copy = RangeSet()
        copy._starts = self._starts.copy()
        copy._stops = self._stops.copy()
        copy.size = self.size
        return copy
