"""A process of its own that has a store open for writing: LMDB lets no process open it twice."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.paths import CHECKOUT

_LOOP: Final = """
import sys, traceback
from pathlib import Path
from modelfs.store.store import Store
from tests.support.run_jobs import *
from tests.support.stores import *
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    try:
        exec(compile(line.replace("\\\\n", "\\n"), "given", "exec"))
    except BaseException:
        print(repr(traceback.format_exc()), flush=True)
    else:
        print("done", flush=True)
store.close()
"""


class WriterProcess:
    """Runs Python code that has `store`, the helpers of `stores` and those of `run_jobs`."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP, path],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("ready")

    def __call__(self, code: str) -> None:
        """Run some code, and return when it is done; fail if it raises."""
        assert self._process.stdin is not None
        self._process.stdin.write(code.replace("\n", "\\n") + "\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        assert answer == word, answer.replace("\\n", "\n")

    def close(self) -> None:
        """Close the store, and end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0


@contextmanager
def writer_of(path: Path) -> Iterator[WriterProcess]:
    """Have a store open for writing in another process for the block."""
    writer = WriterProcess(path)
    try:
        yield writer
    finally:
        writer.close()
