"""The check of the meta pages of LMDB's data file, and of the records of commits beside them.

Theory of operation. LMDB believes the meta page with the larger number. A bit that flips in either
number would give the wrong page the last word, and the commit that fsync acknowledged would be
gone. So nothing in a meta page is believed alone:

- Fields that are the same in every meta page have their value.
- The numbers are those of two commits in a row, each on its page. A new file, and a private copy of
  one, has the same content on both pages.
- A commit frees the root of the tables of the commit before, and keeps a list of the pages that it
  frees, under its number. So the number on a page is that of the last list in the tree of free
  pages that the page names. LMDB writes over no page of the commit before the last, so this holds
  for both. A page that repair, or `withdraw`, has written has the trees of the last commit.
- The last page is not far behind the end of the file, and the map has room for it.
- The newest record is of the commit that the meta pages name, with the same content, or of an
  earlier one. So a page whose write the disk lost is found, although only its age is wrong.

If the last write of a commit fails, that of the meta page, LMDB writes once more to give the page
its old number back, but leaves the new trees there. Such a page cannot be distinguished from one
of a durable commit in which a bit of the number flipped. So `withdraw` puts the trees of the last
commit there.

Example. Pages 1 and 0 name commits 9 and 8. A bit flips in page 0, and it seems to name commit 10.
The numbers still are those of two commits in a row, and a crash could have left no record of commit
10. But in the trees that page 0 names, the last list of free pages is of commit 8. The index is
refused, and repair gives page 0 its number back.
"""

import os
from contextlib import suppress

from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.data_file import DATA_FILE, LOOSE_PAGES
from modelfs.store.index.pages.layout import PAGE_HEAD, DamagedPage, PageFile
from modelfs.store.index.pages.meta import (
    Meta,
    last_freed,
    page_of,
    raw_pages,
    read_metas,
    read_record,
    wrong_fields,
)


def meta_problems(file: PageFile) -> list[str]:
    """Return the problems of the meta pages of a data file.

    If a commit writes one of them meanwhile, a problem may be none.
    """
    pages = raw_pages(file)
    record = read_record(file)
    problems: list[str] = []
    for number, page in enumerate(pages):
        wrong = ["it cannot be read"]
        if page is not None:
            wrong = [f"{name} wrong" for name in wrong_fields(page, number, file.page_size)]
        if wrong:
            problems.append(f"meta page {number} of the index is damaged: {', '.join(wrong)}")
    if problems:
        return problems
    metas = [Meta.from_bytes((page or b"")[PAGE_HEAD.size :]) for page in pages]
    last = max(metas, key=lambda meta: meta.transaction)
    return [
        *(_number_problems(metas) or _list_problems(file, metas)),
        *_size_problems(file, last),
        *(_record_problems(record, last) if record is not None else ()),
    ]


def _number_problems(metas: list[Meta]) -> list[str]:
    one, other = (meta.transaction for meta in metas)
    # Both are 0 before the first commit, and after one that failed, with the last page as before.
    has_failed = one == other == 0 and metas[0].last == metas[1].last
    is_new = metas[0].content == metas[1].content or has_failed
    if is_new or (not one % 2 and other in (one - 1, one + 1)):
        return []
    return [f"a meta page of the index is damaged: they name commits {one} and {other}"]


def _list_problems(file: PageFile, metas: list[Meta]) -> list[str]:
    problems: list[str] = []
    for number, meta in enumerate(metas):
        other = metas[1 - number]
        if meta.transaction < other.transaction and meta.has_trees_of(other):
            continue
        # Of damaged pages, those of the last commit are found by a walk, and others do not matter.
        with suppress(DamagedPage, OSError):
            freed = last_freed(file, meta)
            if not meta.is_of(freed):
                commits = f"it names commit {meta.transaction}, and its trees are of {freed}"
                problems.append(f"meta page {number} of the index is damaged: {commits}")
    return problems


def _size_problems(file: PageFile, meta: Meta) -> list[str]:
    used, size = (meta.last + 1) * meta.page_size, file.size
    path = file.path
    if used > size + LOOSE_PAGES * meta.page_size:
        return [f"{path} is cut short: it has {size} of {used} bytes"]
    if not meta.has_map():
        return [f"a meta page of the index is damaged: a map of {meta.map_size} bytes"]
    return []


def _record_problems(record: Meta, last: Meta) -> list[str]:
    if record.transaction > last.transaction:
        commits = f"the meta pages name commit {last.transaction}, and the last was"
        return [f"a meta page of the index is damaged: {commits} {record.transaction}"]
    if record.transaction == last.transaction and record.content != last.content:
        return [f"a meta page of the index is damaged: not as commit {last.transaction} wrote it"]
    return []


# -- after a commit that failed


def withdraw(folder: Directory) -> None:
    """Take the trees of a failed commit from its meta page, if LMDB has left them there.

    If the disk fails again, that is no error of its own: opening finds such a page, and repair may
    keep that commit, all of whose pages are durable, or not.
    """
    with suppress(OSError):
        with PageFile(folder) as file:
            one, other = read_metas(file)
            if one is None or other is None:
                return
            older, last = sorted((one, other), key=lambda meta: meta.transaction)
            try:
                freed = last_freed(file, older)
            except DamagedPage:
                return
            if freed != last.transaction + 1:
                return
        number = older.transaction & 1
        stand_in = last.with_fields(transaction=older.transaction)
        with folder.opened(DATA_FILE, os.O_RDWR) as fd:
            os.pwrite(fd, page_of(stand_in, number), number * last.page_size)
            os.fsync(fd)
