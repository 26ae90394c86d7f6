"""Rounds of ingest, and the files that one leaves unfinished."""

import pytest

from modelfs.jobs.drive import run
from modelfs.jobs.ingest.job import Ingest
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.stores import CHUNK, content_of, new_file, noise, small_windows


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
