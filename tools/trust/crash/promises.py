"""What was promised: the record a workload keeps, and what it asks of the files after a crash.

Clients say what they are about to do before they do it, and what was acknowledged as soon as it
was. Each statement is one line of JSON, written in one piece:

    ["mix", path, content]    the path is being written in place: any part of that may show
    ["will", path, content]   the path is about to hold that, whole: by a rename or a removal
    ["may", path, content]    it does, and a crash may leave that
    ["must", path, content]   acknowledged: the path holds that, or what was said of it later
    ["ask", number]           somebody asks for everything said so far to be made durable
    ["done", number]          and was told that it is
    ["phase", name]           what the workload is doing from now on

A content is null for no such file, else a list of parts: a text, or `[seed, size]` for that many
bytes of a random stream, zeros if the seed is 0. A path that nothing was said of yet is absent.
"""

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

Part = str | tuple[int, int]
Content = tuple[Part, ...]

BLOCK: Final = 4 << 20  # what is compared at a time


# Seeds from here on are not of random bytes but of weights, with so many variants of each family.
WEIGHTS: Final = 1 << 40
PER_FAMILY: Final = 100


def of_seed(seed: int, size: int) -> Content:
    return ((seed, size),)


@functools.lru_cache(maxsize=256)
def part_bytes(part: Part) -> bytes:
    if isinstance(part, str):
        return part.encode("latin-1")
    seed, size = part
    if not seed:
        return bytes(size)
    if seed >= WEIGHTS:
        return _weights(*divmod(seed - WEIGHTS, PER_FAMILY), size)
    return np.random.default_rng(seed).bytes(size)


def _weights(family: int, variant: int, size: int) -> bytes:
    """Return F32 numbers: those of a family, and of a variant a little beside them."""
    values = np.random.default_rng(family).normal(0, 0.05, size // 4)
    moved = np.random.default_rng(variant).normal(0, 0.0001, size // 4) if variant else 0
    return (values + moved).astype("<f4").tobytes()


def size_of(content: Content) -> int:
    return sum(len(part) if isinstance(part, str) else part[1] for part in content)


def slice_of(content: Content, start: int, stop: int) -> bytes:
    """Return the bytes of a content in `[start, stop)`, as far as it goes."""
    pieces: list[bytes] = []
    at = 0
    for part in content:
        size = len(part) if isinstance(part, str) else part[1]
        if at < stop and start < at + size:
            pieces.append(part_bytes(part)[max(0, start - at) : stop - at])
        at += size
    return b"".join(pieces)


def blocks_of(content: Content, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Yield a content in blocks, each with its offset."""
    for start in range(0, size_of(content), size):
        yield start, slice_of(content, start, start + size)


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """What a path may hold."""

    content: Content | None
    whole: bool = True  # or any part of it
    done: bool = True  # or about to be


class Ledger:
    """What may be found at each path, by the statements made so far."""

    def __init__(self) -> None:
        self._states: dict[str, list[State]] = {}
        self._asked: dict[int, dict[str, State]] = {}
        self.promises = 0

    def hear(self, line: bytes) -> None:
        """Take one statement into account."""
        kind, subject, *rest = json.loads(line)
        if kind == "ask":
            self._asked[subject] = {path: states[-1] for path, states in self._states.items()}
        elif kind == "done":
            for path, state in self._asked.pop(subject).items():
                self._mark_durable(path, state)
        elif kind != "phase":
            self._say(kind, subject, _content(rest[0]))

    def _say(self, kind: str, path: str, content: Content | None) -> None:
        states = self._states.setdefault(path, [State(None)])
        if kind != "must":
            states.append(State(content, whole=kind != "mix", done=kind != "will"))
            return
        self.promises += 1
        said = [state for state in states if state.content == content and state.whole]
        if said:  # otherwise something newer was promised meanwhile
            self._keep_from(path, said[-1])

    def _mark_durable(self, path: str, state: State) -> None:
        # What was still being written, renamed or removed when it was asked for is not part of the
        # promise.
        if state.whole and state.done and any(state is each for each in self._states[path]):
            self.promises += 1
            self._keep_from(path, state)

    def _keep_from(self, path: str, state: State) -> None:
        states = self._states[path]
        self._states[path] = states[next(n for n, each in enumerate(states) if each is state) :]

    def problems(self, folder: Path) -> Iterator[str]:
        """Yield each path in `folder` that holds what it may not."""
        for path, states in self._states.items():
            try:
                problem = _problem(folder / path, states)
            except OSError as exc:
                problem = f"cannot be read: {exc.strerror}"
            if problem:
                yield f"{path} {problem}"

    @property
    def asked(self) -> int:
        """How many are still waiting for what was said to be made durable."""
        return len(self._asked)

    def take_as_found(self, folder: Path) -> None:
        """Begin anew with what a sound store has now; remove what was being written in place.

        Nobody may be asking any more. What is removed is to be made durable before others go on.
        """
        self._asked.clear()
        for path, states in self._states.items():
            if not all(state.whole for state in states):
                (folder / path).unlink(missing_ok=True)
                self._states[path] = [State(None)]
            else:
                found = [state for state in states if _is_whole(folder / path, state)]
                self._states[path] = found[-1:] or [State(None)]


def _content(said: Any) -> Content | None:
    if said is None:
        return None
    return tuple(part if isinstance(part, str) else (part[0], part[1]) for part in said)


def _problem(path: Path, states: list[State]) -> str | None:
    if not path.exists():
        return None if any(state.content is None for state in states) else "is missing"
    if all(state.whole for state in states):
        if any(_is_whole(path, state) for state in states):
            return None
        allowed = ", ".join(str(each.content or "nothing") for each in states)
        return f"has {path.stat().st_size} bytes, which are none of: {allowed}"
    contents = [state.content for state in states if state.content is not None]
    return _mixture_problem(path, contents)


def _is_whole(path: Path, state: State) -> bool:
    if state.content is None or not path.exists():
        return state.content is None and not path.exists()
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != size_of(state.content):
            return False
        return all(
            _read(file.fileno(), at, len(block)) == block for at, block in blocks_of(state.content)
        )


def _read(fd: int, offset: int, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return b"".join(pieces)


def _mixture_problem(path: Path, contents: list[Content]) -> str | None:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max(map(size_of, contents)):
            return f"has {size} bytes, more than were ever written"
        for start in range(0, size, BLOCK):
            data = _read(file.fileno(), start, BLOCK)
            if data == slice_of(contents[-1], start, start + BLOCK):
                continue
            found = np.frombuffer(data, np.uint8)
            sound = found == 0  # a hole: what was not written out yet
            for content in contents:
                wanted = np.frombuffer(slice_of(content, start, start + len(found)), np.uint8)
                sound[: len(wanted)] |= found[: len(wanted)] == wanted
            if not sound.all():
                return f"has bytes at {start + int(np.argmin(sound))} that nobody wrote there"
    return None
