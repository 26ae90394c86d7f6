"""The place of an exercise: a mount, or a folder of any other file system."""

import os
from pathlib import Path
from typing import Protocol


class Place(Protocol):
    """A place that the exerciser can work in; `mounting.Mount` is one."""

    path: Path

    def start(self) -> object: ...
    def remount(self) -> None: ...
    def sync(self) -> None: ...
    def collect(self) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...
    def log(self) -> str: ...


class Folder:
    """A plain folder, which needs no mount."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        pass

    def remount(self) -> None:
        pass

    def sync(self) -> None:
        os.sync()

    def collect(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def log(self) -> str:
        return ""
