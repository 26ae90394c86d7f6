"""Client processes: ordinary system calls in a mount, with a record of the promises they got."""

import itertools
import json
import mmap
import os
import random
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.mounting import Failed, modelfs
from tools.trust.crash.promises import Content, blocks_of, size_of, slice_of

STDERR: Final = 2
PIECE: Final = 1 << 20
STALL_SECONDS: Final = 2.0  # much longer than early ingest takes to begin
# Names and metadata are durable after 5 s without any fsync, plus the time of a commit.
NAMES_LAST_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Site:
    """The mount and store of a workload, and the file for its statements."""

    mountpoint: Path
    store: Path
    record: Path
    seconds: float  # of work


class Client:
    """One process at work, in a folder of its own."""

    def __init__(self, site: Site, name: str, seed: int) -> None:
        self.site = site
        self.name = name
        self.draw = random.Random(f"{name} {seed}")
        self.folder = site.mountpoint / name
        self.folder.mkdir(exist_ok=True)
        self.numbers = itertools.count(seed * 1_000_000 + 1)
        self._record = os.open(site.record, os.O_WRONLY | os.O_APPEND)
        self._until = time.monotonic() + site.seconds
        self._names: deque[tuple[float, str, Content]] = deque()

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self._until

    def say(self, *statement: Any) -> None:
        os.write(self._record, json.dumps(statement).encode() + b"\n")

    # -- files

    def write(
        self, name: str, content: Content, *, durable: bool, stall_at: int | None = None
    ) -> None:
        """Write a file in place, from its beginning, and perhaps fsync it.

        At the offset `stall_at` the write stalls for a while, as a download does.
        """
        self.say("mix", self.path(name), content)
        fd = self._put(name, content, stall_at)
        self.say("may", self.path(name), content)
        if durable:
            os.fsync(fd)
            self.say("must", self.path(name), content)
        os.close(fd)

    def patch(self, name: str, content: Content, start: int, stop: int) -> None:
        """Rewrite a part of a file, which makes it `content`; and fsync it."""
        self.say("mix", self.path(name), content)
        fd = os.open(self.folder / name, os.O_WRONLY)
        os.pwrite(fd, slice_of(content, start, stop), start)
        self.say("may", self.path(name), content)
        os.fsync(fd)
        self.say("must", self.path(name), content)
        os.close(fd)

    def write_mapped(self, name: str, content: Content, *, durable: bool) -> mmap.mmap:
        """Write a file through a mapping, and perhaps msync it. Returns the mapping.

        Without the msync the kernel keeps the pages, and sends them when it wants to.
        """
        self.say("mix", self.path(name), content)
        size = size_of(content)
        fd = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.ftruncate(fd, size)
        mapping = mmap.mmap(fd, size)
        for start, block in blocks_of(content, PIECE):
            mapping[start : start + len(block)] = block
        self.say("may", self.path(name), content)
        if durable:
            mapping.flush()  # msync(MS_SYNC)
            os.fsync(fd)  # the size
            self.say("must", self.path(name), content)
        os.close(fd)
        return mapping

    def replace(self, name: str, content: Content, *, durable: bool) -> None:
        """Write a file under another name and rename it over this one, perhaps with fsyncs."""
        fd = self._put(".new", content)
        if durable:
            os.fsync(fd)
        os.close(fd)
        self.say("will", self.path(name), content)
        (self.folder / ".new").rename(self.folder / name)
        self.say("may", self.path(name), content)
        if durable:
            self.sync_folder()
            self.say("must", self.path(name), content)
        else:
            self._names.append((time.monotonic() + NAMES_LAST_SECONDS, name, content))

    def remove(self, names: list[str], *, durable: bool) -> None:
        """Remove files, and perhaps fsync their folder."""
        for name in names:
            self.say("will", self.path(name), None)
            (self.folder / name).unlink(missing_ok=True)
            self.say("may", self.path(name), None)
        if durable:
            self.sync_folder()
            for name in names:
                self.say("must", self.path(name), None)

    def claim_names(self) -> None:
        """State that renames are durable which are so old that they need no fsync."""
        while self._names and self._names[0][0] < time.monotonic():
            _, name, content = self._names.popleft()
            self.say("must", self.path(name), content)

    def sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def path(self, name: str) -> str:
        return f"{self.name}/{name}"

    def _put(self, name: str, content: Content, stall_at: int | None = None) -> int:
        fd = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for start, block in blocks_of(content, PIECE):
            if start == stall_at:
                time.sleep(STALL_SECONDS)
            os.write(fd, block)
        return fd

    # -- the command line

    def sync(self) -> None:
        """Run `modelfs sync`: everything written so far becomes durable, and is put into chunks."""
        number = self.draw.getrandbits(60)
        self.say("phase", "ingest")
        self.say("ask", number)
        modelfs("sync", self.site.mountpoint)
        self.say("done", number)
        self.say("phase", "work")

    def optimize(self) -> None:
        """Run `modelfs optimize`."""
        self.say("phase", "optimize")
        modelfs("optimize", self.site.mountpoint)
        self.say("phase", "work")

    def collect(self) -> None:
        """Run `modelfs gc`."""
        self.say("phase", "gc")
        modelfs("gc", self.site.mountpoint)
        self.say("phase", "work")


def start(
    work: Callable[[Client], None], site: Site, name: str, seed: int, log: int = STDERR
) -> int:
    """Start a process that does the work, and return its id.

    It exits with 1, and logs the error, if a call in the mount failed.
    """
    if process := os.fork():
        return process
    code = 2
    try:
        os.dup2(log, STDERR)
        work(Client(site, name, seed))
        code = 0
    except (OSError, Failed) as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
