"""Reads of many pages of a data file, each of which the disk may refuse.

Example. Of pages 30, 31 and 40, one read has 30 and 31, which follow one another, and one has 40.
If the first fails, each of its pages is read alone: page 31 may be the only bad one.
"""

from collections.abc import Sequence

from modelfs.store.index.pages.layout import PageFile


def read_pages(
    file: PageFile, numbers: Sequence[int], stop: int, buffer: bytearray
) -> dict[int, str]:
    """Read pages into a buffer, and return those that cannot be read, with the problem.

    Args:
        file: the data file, with its page size set.
        numbers: of the pages, in ascending order.
        stop: pages from this one on lie outside of the file.
        buffer: at least as long as the pages; they lie in it in the order of `numbers`.
    """
    size, view = file.page_size, memoryview(buffer)
    unread: dict[int, str] = {}
    at = 0
    while at < len(numbers):
        after = at + 1
        while after < len(numbers) and numbers[after] == numbers[after - 1] + 1:
            after += 1
        unread |= _read_run(file, numbers[at:after], stop, view[at * size : after * size])
        at = after
    return unread


def _read_run(file: PageFile, run: Sequence[int], stop: int, into: memoryview) -> dict[int, str]:
    """Read pages that follow one another; a page at a time if that fails."""
    size = file.page_size
    try:
        if run[0] >= stop:
            return dict.fromkeys(run, "it lies outside of the file")
        if file.read_into(run[0], into) == len(into):
            return {}
        problem = "the file ends before it"
    except OSError as exc:
        problem = f"it cannot be read: {exc.strerror}"
    if len(run) == 1:
        return {run[0]: problem}
    unread: dict[int, str] = {}
    for at in range(len(run)):
        unread |= _read_run(file, run[at : at + 1], stop, into[at * size : (at + 1) * size])
    return unread
