"""Other systems: pyfuse3 with next to nothing behind it, squashfuse and btrfs, both with zstd."""

import os
import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.bench.speed.volumes import System, Volume, files_below
from tools.mounting import CHECKOUT, DEADLINE, Failed
from tools.trust.crash.machine import make_file_system, unmount

PYFUSE3: Final = "pyfuse3"
SQUASHFUSE: Final = "squashfuse-zstd"
BTRFS: Final = "btrfs-zstd"
SPARE: Final = 1 << 30  # bytes of a btrfs that its files do not need


class Served(Volume):
    """A mount of a process that is no daemon of modelfs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server else None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the command that serves the files at `path`, in the foreground."""

    def start(self) -> float:
        self.path.mkdir(exist_ok=True)
        began = time.monotonic()
        log = self.folder / "log"
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=CHECKOUT,
                process_group=0,  # Ctrl-C goes to the benchmark, which then ends the server
            )
        while not os.path.ismount(self.path):
            if self._server.poll() is not None or time.monotonic() > began + DEADLINE:
                self.stop()
                raise Failed(f"{self.command()[0]} does not mount:\n{log.read_text()[-4000:]}")
            time.sleep(0.001)
        return time.monotonic() - began

    def stop(self) -> None:
        assert self._server is not None, "not mounted"
        server, self._server = self._server, None
        try:
            if os.path.ismount(self.path):
                subprocess.run(["fusermount3", "-u", self.path], check=True)
                server.wait(DEADLINE)
        finally:
            server.kill()
            server.wait()


class Pyfuse3(Served):
    """A plain folder by way of pyfuse3: `tools.bench.speed.passthrough`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._source = folder / "source"

    def command(self) -> Sequence[str | Path]:
        # Not by -m: it is no script that tools/run could list.
        program = "from tools.bench.speed.passthrough import main; main()"
        return (sys.executable, "-c", program, self._source, self.path)

    def make(self, room: int) -> None:
        self._source.mkdir()

    def fill(self, source: Path, *, optimized: bool) -> None:
        self._source = source

    def backing(self) -> Iterable[Path]:
        return files_below(self._source)


class Squashfuse(Served):
    """An image that cannot be written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._image = folder / "image"

    def command(self) -> Sequence[str | Path]:
        return ("squashfuse", "-f", self._image, self.path)

    def make(self, room: int) -> None:
        raise Failed("nothing can be written to an image of squashfs")

    def fill(self, source: Path, *, optimized: bool) -> None:
        options = ("-comp", "zstd", "-b", "1M", "-no-progress", "-quiet")
        subprocess.run(["mksquashfs", source, self._image, *options], check=True)

    def backing(self) -> Iterable[Path]:
        return (self._image,)


class Btrfs(Volume):
    """An image on a loop device, in which all files are compressed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._image = folder / "image"

    def make(self, room: int) -> None:
        make_file_system("btrfs", self._image, 2 * room + SPARE)  # sparse

    def start(self) -> float:
        self.path.mkdir(exist_ok=True)
        began = time.monotonic()
        options = "loop,compress-force=zstd:3"
        subprocess.run(["mount", "-t", "btrfs", "-o", options, self._image, self.path], check=True)
        return time.monotonic() - began

    def stop(self) -> None:
        unmount(self.path)

    def backing(self) -> Iterable[Path]:
        return (self._image,)


@dataclass(frozen=True, slots=True)
class Peer:
    """A system, and its needs."""

    system: System
    programs: tuple[str, ...] = ()
    as_root: bool = False

    def lacks(self) -> str:
        """Return the needs that this machine does not have, as a note; empty if it has all."""
        missing = [name for name in self.programs if shutil.which(name) is None]
        if missing:
            return f"needs {' and '.join(missing)}"
        return "needs root" if self.as_root and os.geteuid() else ""


PEERS: Final = (
    Peer(System(PYFUSE3, Pyfuse3)),
    Peer(System(SQUASHFUSE, Squashfuse, can_write=False), ("squashfuse", "mksquashfs")),
    Peer(System(BTRFS, Btrfs), ("mkfs.btrfs",), as_root=True),
)
