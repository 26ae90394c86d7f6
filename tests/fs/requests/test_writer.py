"""Writes: on the event loop while the disk keeps up, on threads while it does not."""

import os
import threading
import time

import pytest

from modelfs.fs.requests.writer import SLOW_SECONDS, THREAD_SECONDS
from tests.support.served_store import Served
from tests.support.stores import CHUNK, noise

DATA = noise(CHUNK)


class Disk:
    """Stands for the clock and for pwritev(2), which takes `takes` seconds."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.takes = 0.0
        self.on_thread: list[bool] = []
        self._pwritev = os.pwritev

    def monotonic(self) -> float:
        return self.now

    def pwritev(self, fd: int, data: list[memoryview], offset: int) -> int:
        self.on_thread.append(threading.current_thread() is not threading.main_thread())
        self.now += self.takes
        return self._pwritev(fd, data, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr("modelfs.fs.requests.writer.time.monotonic", disk.monotonic)
    monkeypatch.setattr(os, "pwritev", disk.pwritev)
    return disk


async def test_fast_writes_need_no_thread(served: Served, disk: Disk) -> None:
    """While writes are fast, none goes to a thread."""
    _, handle = await served.created(b"f")
    for number in range(10):
        await served.operations.write(handle, number * CHUNK, DATA)
    assert disk.on_thread == [False] * 10


async def test_slow_disk(served: Served, disk: Disk) -> None:
    """After a slow write, writes go to threads for `THREAD_SECONDS`."""
    inode, handle = await served.created(b"f")
    disk.takes = 2 * SLOW_SECONDS
    await served.operations.write(handle, 0, DATA)
    disk.takes = 0.0
    await served.operations.write(handle, CHUNK, DATA)
    disk.now += THREAD_SECONDS / 2
    await served.operations.write(handle, 2 * CHUNK, DATA)
    disk.now += THREAD_SECONDS
    await served.operations.write(handle, 3 * CHUNK, DATA)
    assert disk.on_thread == [False, True, True, False]
    assert await served.content(inode) == 4 * DATA
