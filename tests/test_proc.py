"""Files of proc(5) as text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import modelfs
from modelfs import proc

# Links to descriptors, and the folder itself, are no text.
OUTSIDE = re.compile(r"""["']/proc(?!/(self|\{process\})/fd|["'])""")


def test_a_name_that_is_cut_inside_a_letter(tmp_path: Path) -> None:
    """The status of a program with a long name in Cyrillic is read, each field of it."""
    program = tmp_path / "записьмодели"
    program.symlink_to(os.path.realpath(sys.executable))
    code = "print(flush=True); input()"
    with subprocess.Popen(
        [program, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert f"Pid:\t{running.pid}" in proc.lines(running.pid, "status")
        assert os.fsencode(proc.read(running.pid, "comm")) == "записьмодели".encode()[:15] + b"\n"
        assert running.pid in proc.processes()
        running.communicate()


def test_lines(tmp_path: Path) -> None:
    """Only a newline ends a line."""
    (tmp_path / "file").write_bytes("a\fb\u2028c\rd\n\xff\n".encode("latin-1", "replace"))
    assert proc.lines(str(tmp_path), "file") == ["a\fb?c\rd", "\udcff"]


def test_the_only_reader() -> None:
    """No other module reads a file of proc(5) itself, with an encoding of its own."""
    package = Path(modelfs.__file__).parent
    others = [path for path in package.rglob("*.py") if path != package / "proc.py"]
    assert [path.name for path in others if OUTSIDE.search(path.read_text())] == []
