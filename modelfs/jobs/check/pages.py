"""Findings about pages of the index's file.

They are all that is known of such a store. LMDB must not read a damaged file, so no row is checked.
Repair writes all rows that can still be read to a new file, and then checks those.
"""

from modelfs.errors import DamagedPages
from modelfs.jobs.check.findings import Finding
from modelfs.store.disk.directory import Directory
from modelfs.store.index.opening import check_meta_pages


def meta_page_findings(index: Directory) -> list[Finding]:
    """Return the findings about the meta pages of an index. A daemon may have the store mounted.

    Raises:
        IndexLost: both are damaged.
    """
    try:
        check_meta_pages(index)
    except DamagedPages as exc:
        return [Finding("meta-page", f"{exc}; the rest is not checked")]
    return []


def page_findings(exc: DamagedPages) -> list[Finding]:
    """Return a finding for each damaged page that kept the index from being opened."""
    return [Finding("page", f"{problem}; no row is checked") for problem in exc.problems]
