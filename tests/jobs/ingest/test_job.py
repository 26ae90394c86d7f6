"""Rounds of ingest, and the files that one leaves unfinished."""

import pytest

from modelfs.errors import StoreFull
from modelfs.jobs.drive import run
from modelfs.jobs.ingest.job import Ingest, raise_first, sync_rounds
from modelfs.store.disk.space import Space
from modelfs.store.index.tables import InodeNumber, Table, number_key, request_value
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.stores import (
    CHUNK,
    content_of,
    model_of,
    new_file,
    noise,
    pending_files,
    small_windows,
)


def test_files_that_a_partial_pass_cannot_recognise_are_returned(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a partial round, an archive without its directory is returned, and noise is not."""
    small_windows(monkeypatch, 2 * CHUNK)
    archive = (MODELS / "base.pt").read_bytes()
    unfinished = new_file(opened, b"base.pt", archive[: 8 * CHUNK])
    plain = new_file(opened, b"noise", noise(8 * CHUNK))
    job = Ingest(opened)
    assert run(job.ingest([unfinished, plain], complete=False), opened) == {unfinished}
    opened.writes.write(unfinished, 8 * CHUNK, archive[8 * CHUNK :])
    assert run(job.ingest([unfinished, plain]), opened) == set()
    assert content_of(opened, unfinished) == archive
    assert content_of(opened, plain) == noise(8 * CHUNK)


def test_a_sync_ends_while_files_are_created(opened: Store) -> None:
    """Files that are created during the rounds of a sync wait for the next one."""
    old = [new_file(opened, b"old%d" % number, noise(CHUNK, number)) for number in range(3)]
    new: list[InodeNumber] = []
    rounds: list[tuple[list[InodeNumber], int, int]] = []
    for inodes, done, total in sync_rounds(opened):
        assert len(rounds) < 10
        run(Ingest(opened).ingest(inodes), opened)
        new.append(new_file(opened, b"new%d" % len(rounds), noise(CHUNK, 9 + len(rounds))))
        run(Ingest(opened).ingest([new[-1]], complete=False), opened)  # it has a request now
        rounds.append((list(inodes), done, total))
    assert rounds == [(old, 3, 3)]
    assert pending_files(opened) == new


def test_a_sync_cuts_an_old_data_file_again(opened: Store) -> None:
    """A file whose new cut is requested during a sync is part of it, though it was not pending."""
    data = new_file(opened, b"data", noise(CHUNK))
    run(Ingest(opened).ingest([data]), opened)
    model = new_file(opened, b"model", noise(CHUNK, 1))
    rounds: list[list[InodeNumber]] = []
    for inodes, *_ in sync_rounds(opened):
        run(Ingest(opened).ingest(inodes), opened)
        if inodes == [model]:
            with opened.index.change():
                opened.index.put(Table.PENDING, number_key(data), request_value())
        rounds.append(list(inodes))
    assert rounds == [[model], [data]]
    assert pending_files(opened) == []


def test_a_failure_names_its_file(opened: Store) -> None:
    """The error has the first file's path and its reason, and the number of other files."""
    one, other = (new_file(opened, name, noise(CHUNK)) for name in (b"one", b"other"))
    broken, full = OSError(5, "broken"), StoreFull("no room")
    raise_first(opened, {})
    with pytest.raises(OSError, match="cannot store /one and 1 more in chunks: broken") as first:
        raise_first(opened, {one: broken, other: full})
    with pytest.raises(OSError, match="cannot store /other in chunks: no room") as second:
        raise_first(opened, {other: full})
    assert [(each.value.errno, each.value.__cause__) for each in (first, second)] == [
        (broken.errno, broken),
        (full.errno, full),
    ]


def test_staged_bytes_become_chunks_without_room_for_a_new_cut(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room to cut a file at its tensors, its staged bytes alone become chunks."""
    tensors = [noise(5 * CHUNK + 100, seed) for seed in range(20)]
    content = model_of(*tensors)
    inode = new_file(opened, b"f", bytes(CHUNK) + content[CHUNK:])
    run(Ingest(opened).ingest([inode], complete=False, urgent=True), opened)
    opened.writes.write(inode, 0, content[:CHUNK])
    limited = opened.packs._space = Space(opened.folder)
    most = [20 * CHUNK]

    def spend(size: int, *, for_gc: bool = False) -> None:
        if size > most[0]:
            raise StoreFull("no room")

    monkeypatch.setattr(limited, "spend", spend)
    before = opened.inodes.get(inode).format
    assert run(Ingest(opened).ingest_apart([inode]), opened) == {}
    assert opened.staging.bytes == 0
    assert opened.inventory.requested() == [inode]
    assert content_of(opened, inode) == content
    most[0] = 1 << 30
    assert run(Ingest(opened).ingest_apart([inode]), opened) == {}
    assert opened.inodes.get(inode).format is not before
    assert content_of(opened, inode) == content
