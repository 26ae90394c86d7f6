"""The systems that are measured, and files on them: a plain folder, and mounts of modelfs."""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelfs.cli.client import connect
from modelfs.cli.failure import Failure
from modelfs.cli.places import find_store
from tools.bench.speed.figures import PLAIN
from tools.mounting import Failed, Mount, modelfs

PASSTHROUGH: Final = "passthrough"


class Volume(ABC):
    """Files on one system. Between `start` and `stop` they are at `path`.

    An empty one is made by `make`, one with files by `fill`, once and before the first `start`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # empty, and its own
        self.path = folder / "mnt"

    @property
    def pid(self) -> int | None:
        """The process that serves the files; None if the kernel does."""
        return None

    @abstractmethod
    def make(self, room: int) -> None:
        """Make the file system, empty, with room for so many bytes."""

    @abstractmethod
    def start(self) -> float:
        """Mount, and return after how many seconds the mount answered."""

    @abstractmethod
    def stop(self) -> None:
        """Unmount. Nothing of it is in the kernel's caches any more."""

    @abstractmethod
    def backing(self) -> Iterable[Path]:
        """Return the files of the disk that have the bytes of the files."""

    def fill(self, source: Path, *, optimized: bool) -> None:
        """Make the file system, and copy the files of a folder into it."""
        self.make(sum(path.stat().st_size for path in files_below(source)))
        self.start()
        try:
            shutil.copytree(source, self.path, dirs_exist_ok=True)
            self.settle()
        finally:
            self.stop()

    def settle(self) -> None:
        """Return when all written bytes are on the disk in their last place."""
        os.sync()

    def chunks(self) -> int | None:
        """Return the number of chunks; None if the system has none."""
        return None

    def describe(self) -> str:
        """Return how the files are stored, for a note; empty if as they are."""
        return ""


@dataclass(frozen=True, slots=True)
class System:
    """One of the systems that are compared."""

    name: str
    volume: Callable[[Path], Volume]
    is_hot: bool = False  # a mount of modelfs that may use passthrough
    can_write: bool = True
    is_peer: bool = True


class PlainFolder(Volume):
    """A folder of the file system that the stores lie on."""

    def make(self, room: int) -> None:
        self.path.mkdir()

    def fill(self, source: Path, *, optimized: bool) -> None:
        self.path = source  # which is such a folder already

    def start(self) -> float:
        return 0.0

    def stop(self) -> None:
        pass

    def backing(self) -> Iterable[Path]:
        return files_below(self.path)


class Modelfs(Volume):
    """A store and its mount."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        super().__init__(folder)
        self.store = folder / "store"
        words = [word for option in options for word in ("-o", option)]
        self._mount = Mount(self.store, self.path, *words)
        self._is_started = False

    @property
    def pid(self) -> int | None:
        return self._mount.pid if self._is_started else None

    def make(self, room: int) -> None:
        modelfs("mkfs", self.store)

    def fill(self, source: Path, *, optimized: bool) -> None:
        super().fill(source, optimized=optimized)
        if optimized:
            modelfs("optimize", self.store)

    def start(self) -> float:
        seconds = self._mount.start()
        self._is_started = True
        return seconds

    def stop(self) -> None:
        self._is_started = False
        try:
            self._mount.unmount()
        finally:
            self._mount.abandon()

    def backing(self) -> Iterable[Path]:
        # The index is in the daemon's memory, mapped.
        index = self.store / "index"
        return (path for path in files_below(self.store) if path.parent != index)

    def settle(self) -> None:
        # Not by the command, which takes a third of a second to start.
        with closing(find_store(self.path)) as store:
            daemon = connect(store)
            if daemon is None:
                raise Failed("the store has no daemon")
            with daemon:
                try:
                    daemon.ask("sync")
                except Failure as exc:
                    raise Failed(str(exc)) from exc

    def chunks(self) -> int | None:
        chunks: int = self._statistics()["chunks"]
        return chunks

    def describe(self) -> str:
        parts = [
            f"{form['chunks']:,} chunks {name} ({form['stored_bytes'] / form['raw_bytes']:.1%})"
            for name, form in self._statistics()["forms"].items()
            if form["raw_bytes"]
        ]
        return ", ".join(parts)

    def _statistics(self) -> dict[str, Any]:
        place = self.path if self._is_started else self.store
        found: dict[str, Any] = json.loads(modelfs("stats", place, "--json"))
        return found


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def plain_system() -> System:
    return System(PLAIN, PlainFolder, is_peer=False)


def modelfs_system(options: Sequence[str], compared: str | None = None) -> System:
    """Return a mount with options, and one more if two mounts are compared by it."""
    given = [*options, *([compared] if compared else [])]
    name = "modelfs" if compared is None else f"modelfs {compared or 'as is'}"
    is_hot = PASSTHROUGH in given
    return System(name, lambda folder: Modelfs(folder, given), is_hot=is_hot, is_peer=False)
