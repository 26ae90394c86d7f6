"""A failing disk under a store: each system call fails in turn.

As SQLite is tested ("How SQLite Is Tested", section 3): a workload runs with its first system call
failing, then with its second, and so on, until the failing call is past its end. Each time the
store must serve no bytes that were not written, keep all acknowledged changes, and work again as
soon as the disk does, without being opened again. The calls take turns with the kinds of failure.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from modelfs.jobs.defrag import order
from modelfs.jobs.optimize import pipeline
from modelfs.store.create import create_store
from modelfs.store.disk.space import Room, Space
from modelfs.store.packs import pack, segment
from tests.support import faulty_syscalls as faults
from tests.support.faulty_syscalls import (
    CALLS,
    PART,
    PARTIAL,
    SYNCS,
    Fault,
    optimize_family,
    survive,
    write_family,
)
from tests.support.lost_writeback import LostWriteBack
from tests.support.stores import CHUNK, small_windows


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store whose windows, segments and packs are small, so that there are many."""
    small_windows(monkeypatch, 4 * CHUNK)
    monkeypatch.setattr(segment, "SEGMENT_SIZE", 4 * CHUNK)
    monkeypatch.setattr(pack, "PACK_SIZE", 24 * CHUNK)
    # Without a power loss nothing has to reach a disk.
    for name in SYNCS:
        monkeypatch.setattr(os, name, lambda fd: None)
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    create_store(tmp_path / "empty", chunk_size=CHUNK)
    return tmp_path / "empty"


class InTurn(Executor):
    """Runs tasks at once, so that the calls have the same order every time."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **options))
        except Exception as exc:
            future.set_exception(exc)
        return future


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the optimizer use one thread, and defragment even slightly scattered files."""
    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", InTurn)
    for name in ("RUNS_RATIO", "RUNS_MORE", "GAP_MAX"):
        monkeypatch.setattr(order, name, 0)
    monkeypatch.setattr(order, "PORTION_BYTES", 2 * CHUNK)
    monkeypatch.setattr(Space, "room", lambda self: Room(1 << 40, 1 << 39, 1 << 20, 1 << 19))


def copies(empty: Path) -> Path:
    where = empty.with_name("store")
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(empty, where)
    return where


@pytest.mark.parametrize("call", [call for call in CALLS if call != "ftruncate"])
def test_any_call_may_fail(empty: Path, call: str) -> None:
    """Any call may fail, once or permanently, with EIO or ENOSPC: nothing is lost."""
    number = 0
    while survive(copies(empty), Fault(call, number, *faults.WAYS[number % len(faults.WAYS)])):
        number += 1
    assert number, f"the workload has no {call}"


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize("call", [call for call in CALLS if call != "ftruncate"])
def test_any_call_of_the_optimizer_may_fail(empty: Path, call: str) -> None:
    """The same for the optimizer, defragmenting, and the removal of base-only chunks."""
    number = 0
    while survive(
        copies(empty),
        Fault(call, number, *faults.WAYS[number % len(faults.WAYS)]),
        optimize_family,
        write_family,
    ):
        number += 1 if call in SYNCS else 3  # so that each kind of failure has its turn
    assert number, f"the workload has no {call}"


@pytest.mark.parametrize("folder", ["staging", "packs", ""])
def test_write_back_may_fail_between_any_calls(empty: Path, folder: str) -> None:
    """The kernel may lose unsynced bytes at any moment: it is never read or acknowledged."""
    number = 0
    while not (kernel := LostWriteBack(number, folder)).ended(survive(copies(empty), kernel)):
        number += 3
    assert number > 100


@pytest.mark.usefixtures("in_turn")
def test_write_back_may_fail_during_the_optimizer(empty: Path) -> None:
    """The same while chunks are optimized, defragmented and collected."""
    number = 0
    while not (kernel := LostWriteBack(number)).ended(
        survive(copies(empty), kernel, optimize_family, write_family)
    ):
        number += 7
    assert number > 100


@pytest.mark.parametrize("call", PARTIAL)
def test_any_transfer_may_be_short(empty: Path, call: str) -> None:
    """A read or write of half of its bytes is continued, without an effect."""
    number = 0
    while survive(copies(empty), Fault(call, number, PART, lasting=bool(number % 2))):
        number += 5
    assert number, f"the workload has no {call}"
