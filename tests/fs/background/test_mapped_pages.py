"""Pages of mapped files: files that are renamed meanwhile, and those whose pages do not come."""

from pathlib import Path

import pytest
import trio
from pyfuse3 import FileNameT

from modelfs.fs.background import mapped_pages
from modelfs.fs.host.fsync_mapped import MOVED
from modelfs.store.index.tables import InodeNumber
from tests.support.served_store import ASKED, TOP, Served, rename

Paths = dict[InodeNumber, bytes]


async def test_a_renamed_file_is_looked_up_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was renamed before its fsync is synced by its new path, the others once."""
    moving, _ = await served.created(b"old", b"x")
    staying, _ = await served.created(b"staying", b"x")
    calls: list[Paths] = []

    def sync(_: Path, device: int, paths: Paths) -> dict[InodeNumber, str]:
        calls.append(paths)
        if len(calls) > 1:
            return {}
        trio.from_thread.run(rename, served, b"old", b"new")
        return {moving: MOVED}

    monkeypatch.setattr(mapped_pages, "sync_mapped_files", sync)
    await served.background.mapped_pages.sync_all()
    assert calls == [{moving: b"/old", staying: b"/staying"}, {moving: b"/new"}]


async def test_a_file_that_is_always_renamed_is_an_error(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that never stays where it was looked up fails the sync, after some attempts."""
    inode, _ = await served.created(b"f", b"x")
    monkeypatch.setattr(mapped_pages, "sync_mapped_files", lambda *_: {inode: MOVED})
    with pytest.raises(OSError, match="/f through a mapping: it is renamed again and again"):
        await served.background.mapped_pages.sync_all()


async def test_the_error_names_a_file(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the path and the reason of one file, and the number of the others."""
    for name in (b"a", b"b", b"c"):
        await served.created(name, b"x")
    monkeypatch.setattr(
        mapped_pages,
        "sync_mapped_files",
        lambda *arguments: dict.fromkeys(arguments[-1], "no permission"),
    )
    with pytest.raises(OSError, match="/a and 2 more through a mapping: no permission"):
        await served.background.mapped_pages.sync_all()


async def test_a_removed_file_has_no_path(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a name cannot be opened by a path, and is left out."""
    await served.created(b"f", b"x")
    await served.operations.unlink(TOP, FileNameT(b"f"), ASKED)
    calls: list[Paths] = []

    def sync(_: Path, device: int, paths: Paths) -> dict[InodeNumber, str]:
        calls.append(paths)
        return {}

    monkeypatch.setattr(mapped_pages, "sync_mapped_files", sync)
    await served.background.mapped_pages.sync_all()
    assert calls == [{}]
