"""Record the session of the README on a real mount, and draw it as a terminal shows it.

    tools/run docs.session [--check]

Runs a few commands with the test models, in a temporary folder. Their output, as it is, goes to the
README between `<!-- begin: session -->` and `<!-- end -->`. The picture, docs/session.svg, has two
commands more, whose tables are too large for a README. `--check` changes nothing, and ends with 1
if the README would change. Needs FUSE.
"""

import argparse
import contextlib
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Final

from rich.console import Console
from rich.text import Text

from tools.docs.man import ROOT

README: Final = ROOT / "README.md"
PICTURE: Final = ROOT / "docs" / "session.svg"
MODELS: Final = "tests/data/minilm-slice"
COLUMNS: Final = 140
SECONDS_MAX: Final = 120
# As long as the daemon waits for a closed file to be opened again, and some: then it looks at the
# file once more, and lists it for the optimizer. People are slower than that.
QUIET_SECONDS: Final = 1.5

COMMANDS: Final = (
    "modelfs mkfs models.store",
    "mkdir models && modelfs mount models.store models",
    f"cp {MODELS}/* models",
    "modelfs sync models",
    "modelfs optimize models",
    "modelfs stats models | head -n 3",
    f"cmp {MODELS}/finetune.safetensors models/finetune.safetensors && echo equal",
    "modelfs umount models",
)
# In the picture only, before the last one.
DRAWN: Final = ("modelfs stats models", "modelfs inspect models/finetune.safetensors")

PART: Final = re.compile(r"(<!-- begin: session -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Shown:
    """A command, and all that a terminal shows of it."""

    command: str
    output: str


def record() -> list[Shown]:
    """Run all commands in a temporary folder, and return their output.

    Raises:
        CalledProcessError: one of them failed.
    """
    with tempfile.TemporaryDirectory(prefix="modelfs-session.") as name:
        folder = Path(name)
        (folder / "tests").symlink_to(ROOT / "tests")
        commands = [*COMMANDS[:-1], *DRAWN, COMMANDS[-1]]
        try:
            return [Shown(command, _run_and_wait(command, folder)) for command in commands]
        finally:
            # After an error, nothing may stay mounted inside the folder, which is removed.
            if os.path.ismount(folder / "models"):
                run(COMMANDS[-1], folder)


def _run_and_wait(command: str, folder: Path) -> str:
    output = run(command, folder)
    if command.startswith("modelfs sync"):
        time.sleep(QUIET_SECONDS)
    return output


def run(command: str, folder: Path) -> str:
    """Run a shell command whose output is a terminal's, and return that.

    Raises:
        CalledProcessError: it failed.
    """
    here, there = pty.openpty()
    ioctl(there, TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        # Progress is on stderr, and not what stays on the screen.
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": path, "TERM": "xterm-256color"},
            stdin=subprocess.DEVNULL,
            stdout=there,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(there)
    output = b"".join(_read(here))
    os.close(here)
    _, errors = process.communicate(timeout=SECONDS_MAX)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output, errors)
    lines = output.decode().replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def _read(terminal: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # EIO, when the last who could write has ended
        while data := os.read(terminal, 1 << 16):
            yield data


def block(session: list[Shown]) -> str:
    """Return the session as a block of Markdown, without the commands that are only drawn."""
    lines: list[str] = []
    for shown in session:
        if shown.command not in DRAWN:
            output = Text.from_ansi(shown.output).plain
            lines += [f"$ {shown.command}", *(line.rstrip() for line in output.splitlines())]
    return "```console\n" + "\n".join(lines) + "\n```\n"


def with_session(text: str, session: list[Shown]) -> str:
    """Return the README's text with a session in its place."""
    return PART.sub(lambda match: match[1] + block(session) + match[2], text)


def draw(session: list[Shown]) -> str:
    """Return a picture of a terminal, as SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, highlight=False
        )
        for shown in session:
            if "|" in shown.command:
                continue  # drawn whole
            console.print(Text.assemble(("$ ", "bold green"), (shown.command, "bold")))
            if shown.output:
                console.print(Text.from_ansi(shown.output))
        return console.export_svg(title="modelfs")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/run docs.session", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    session = record()
    old = README.read_text()
    new = with_session(old, session)
    if options.check:
        return 0 if old == new else 1
    README.write_text(new)
    PICTURE.write_text(draw(session))
    return 0


if __name__ == "__main__":
    sys.exit(main())
