"""Processes with the rights of users, who need not exist on the machine."""

import errno
import io
import json
import mmap
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

SECONDS: Final = 30.0
# A new Python process and not a fork, since pytest has threads. It finds this module by `sys.path`,
# which lacks the checkout if pytest was started by its own name.
_CHECKOUT = str(Path(__file__).parents[2])
if _CHECKOUT not in sys.path:
    sys.path.append(_CHECKOUT)
_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Ids:
    """The user and groups of a process. `team` is a supplementary group."""

    uid: int
    gid: int
    team: int


TEAM: Final = 4000
ALICE: Final = Ids(4001, 4001, TEAM)
BOB: Final = Ids(4002, 4002, TEAM)
CAROL: Final = Ids(4003, 4003, 4003)


class User:
    """Calls functions with a user's rights, in a folder."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self, call: Callable[..., object], *arguments: object) -> object:
        """Return the result of a function, or the name of its errno.

        The process finds the function by its name: no lambda, and in a module that loads quickly.
        """
        self._pipe.send((call, arguments))
        assert self._pipe.poll(SECONDS), f"{call} {arguments} takes too long"
        return self._pipe.recv()


@contextmanager
def user(ids: Ids, folder: Path, *modules: str) -> Iterator[User]:
    """Start a user's process in `folder`, with the needed modules loaded."""
    here, there = _processes.Pipe()
    process = _processes.Process(target=_serve, args=(there, ids, folder, modules), daemon=True)
    process.start()
    there.close()
    try:
        yield User(here)
    finally:
        here.close()
        process.join(SECONDS)
        process.kill()


def _serve(pipe: Connection, ids: Ids, folder: Path, modules: tuple[str, ...]) -> None:
    for module in modules:  # the user may be unable to read them
        import_module(module)
    os.chdir(folder)
    os.umask(0o022)
    os.setgroups([ids.gid, ids.team])
    os.setresgid(ids.gid, ids.gid, ids.gid)
    os.setresuid(ids.uid, ids.uid, ids.uid)
    try:
        while True:
            call, arguments = pipe.recv()
            pipe.send(outcome(call, *arguments))
    except EOFError:
        pass


def outcome(call: Callable[..., object], *arguments: object) -> object:
    """Return the result of a call, or the name of its errno."""
    try:
        return call(*arguments)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


# Operations of a user: system calls by path, whose results do not differ between file systems, and
# none that waits for the other end of a fifo.


def look(path: str) -> tuple[int, int, int, int]:
    node = os.lstat(path)
    return node.st_mode, node.st_uid, node.st_gid, node.st_size


def names(path: str) -> list[str]:
    return sorted(os.listdir(path))


def attributes(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def open_and_close(path: str, flags: int, mode: int = 0o666) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK, mode))


def make(path: str, mode: int) -> None:
    open_and_close(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def append(path: str, data: bytes) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def touch_now(path: str) -> None:
    os.utime(path)


def set_times(path: str) -> None:
    os.utime(path, ns=(1, 2))


def link(old: str, new: str) -> None:
    os.link(old, new, follow_symlinks=False)


def fill_mapping(path: str, data: bytes) -> None:
    """Write data into a new file through a mapping that stays."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, len(data))
    mapping = mmap.mmap(fd, len(data))
    mapping[:] = data
    _mappings.append((fd, mapping))


_mappings: list[tuple[int, mmap.mmap]] = []


# Operations that a user may try with a store.


def command(*arguments: str) -> tuple[int, str, str]:
    """Run a command of modelfs; return its exit code, stdout and stderr."""
    run = import_module("modelfs.cli.main").run
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = run(arguments)
    return code, out.getvalue(), err.getvalue()


def ask(path: str, request: dict[str, object]) -> dict[str, object]:
    """Return the response to a request at the control socket `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(client.makefile("rb").readline())
    assert isinstance(answer, dict)
    return answer


def open_store(path: str, read_only: bool, trust: bool) -> str:
    """Open a store and close it; return "opened", or the name of the error's class."""
    opened = import_module("modelfs.store.store").Store
    try:
        opened(Path(path), read_only=read_only, trust=trust).abandon()
    except Exception as exc:
        return type(exc).__name__
    return "opened"


def read_files(path: str, trust: bool) -> dict[str, bytes] | str:
    """Return the content of all files of a store, read in Python; else the error."""
    opened = import_module("modelfs.reader.entry").open
    try:
        with opened(path, trust=trust) as store:
            return {file.path: file.pread() for file in store.files()}
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
