"""A store with one file, `file`, and connections to it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelfs.reader.connection import Connection, Plan
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.stores import noise

SIZE = 3 << 20
DATA = noise(SIZE)
SECONDS = 20.0


def size_of(store: Store) -> int:
    return store.contents.node(file_of(store)).size


def file_of(store: Store) -> InodeNumber:
    return store.namespace.lookup(ROOT, b"file")


def bytes_of(offset: int = 0, size: int = SIZE) -> Plan:
    return lambda store: store.contents.plan(file_of(store), offset, size)


def open_files() -> list[str]:
    found: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)


def opened_below(path: Path) -> list[str]:
    return [name for name in open_files() if name.startswith(str(path))]


@contextmanager
def closing_connection(path: Path) -> Iterator[Connection]:
    connection = Connection(path)
    try:
        yield connection
    finally:
        connection.close()


def in_child(call: Callable[[], object]) -> int:
    """Fork, call something in the child, and return its exit code: 0 if that did not raise."""
    child = os.fork()
    if not child:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def must_read(connection: Connection) -> None:
    assert connection.read(bytes_of()) == DATA
