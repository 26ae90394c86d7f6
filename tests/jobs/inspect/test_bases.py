"""The files that a file derives from."""

import dataclasses

from modelfs.jobs.inspect.file import inspect
from modelfs.jobs.inspect.report import Base
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, derive
from tests.support.run_jobs import collect, collect_dead
from tests.support.stores import CHUNK, content_of, model_of, noise, stored_file


def test_bases(opened: Store) -> None:
    """Of each tensor, what it derives from is named: by file and tensor, or as held by no file."""
    whole, held = noise(CHUNK, 1), noise(CHUNK, 2)
    base = stored_file(opened, b"base", model_of(noise(500, 3), whole))
    gone = stored_file(opened, b"gone", held)
    model = model_of(whole[:3000] + held[:1000], whole[5:2005], held[7:2007], noise(90, 4))
    top = stored_file(opened, b"top", model)
    start, size = len(model) - 8090, opened.contents.node(base).size
    chunks = [chunk_at(opened, top, start + at) for at in (0, 4000, 6000)]
    low, high = chunk_at(opened, base, size - CHUNK), chunk_at(opened, gone)
    derive(opened, chunks[0], (low, 0, 3000), (high, 0, 1000))
    derive(opened, chunks[1], (low, 5, 2000))
    derive(opened, chunks[2], (high, 7, 2000))
    opened.namespace.unlink(ROOT, b"gone")
    collect(opened)
    assert content_of(opened, top) == model
    report = inspect(opened, top)
    named, nobody = Base("/base", "t1", 4000), Base(None, None, 4000)
    assert set(report.tensors[0].derived_from) == {named, nobody}
    assert report.tensors[1].derived_from == (dataclasses.replace(named, bytes=2000),)
    assert report.tensors[2].derived_from == (dataclasses.replace(nobody, bytes=2000),)
    assert report.tensors[3].derived_from == ()
    assert [form.form for form in report.tensors[1].forms] == ["gather"]
    assert sum(form.stored_bytes for form in report.forms) == report.stored_bytes < 2000
    assert inspect(opened, base).tensors[1].derived_from == ()


def test_a_file_may_be_its_own_base(opened: Store) -> None:
    """A tensor that derives from another of the same file names that one."""
    model = model_of(noise(4000, 1), noise(4000, 1)[:3000])
    inode = stored_file(opened, b"model", model)
    size = len(model)
    base, chunk = chunk_at(opened, inode, size - 7000), chunk_at(opened, inode, size - 3000)
    derive(opened, chunk, (base, 0, 3000))
    report = inspect(opened, inode)
    assert report.tensors[1].derived_from == (Base("/model", "t0", 3000),)
    assert report.shared_bytes == 0


def test_what_others_derive_from_is_not_freed(opened: Store) -> None:
    """What stays for the sake of other files when one goes is not called its own."""
    inode = stored_file(opened, b"base", noise(2 * CHUNK))
    part = stored_file(opened, b"part", noise(2 * CHUNK)[: CHUNK - 1])
    derive(opened, chunk_at(opened, part), (chunk_at(opened, inode), 0, CHUNK - 1))
    collect(opened, live_min=2)
    report = inspect(opened, inode)
    assert (report.own_bytes, report.shared_bytes) == (CHUNK, CHUNK)
    before = opened.inventory.statistics(0).stored_bytes
    opened.namespace.unlink(ROOT, b"base")
    collect_dead(opened)
    assert before - opened.inventory.statistics(0).stored_bytes == report.own_bytes
