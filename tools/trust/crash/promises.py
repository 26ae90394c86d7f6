"""Promises: the statements that a workload records, and the file contents they allow after a crash.

A client states an action before it begins, and the acknowledgement as soon as it has it. Each
statement is one line of JSON, written with one call:

    ["mix", path, content]    the path is being written in place: it may have any part of that
    ["will", path, content]   the path is about to have that, whole: by a rename or a removal
    ["may", path, content]    the path has that, and may have it after a crash
    ["must", path, content]   acknowledged: after a crash, the path has that or a later content
    ["ask", number]           a sync was requested for everything stated so far
    ["done", number]          the sync was acknowledged
    ["phase", name]           the workload begins another phase

A content is null for no file, else a list of parts: a text, or `[seed, size]` for that many bytes
of a random stream, zeros if the seed is 0. A path without statements does not exist.
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

BLOCK: Final = 4 << 20  # bytes that are compared at a time


# Seeds from here on are of weights, not of random bytes. Each family has PER_FAMILY variants.
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
    """Return F32 numbers: those of a family, with small differences for each variant."""
    values = np.random.default_rng(family).normal(0, 0.05, size // 4)
    moved = np.random.default_rng(variant).normal(0, 0.0001, size // 4) if variant else 0
    return (values + moved).astype("<f4").tobytes()


def size_of(content: Content) -> int:
    return sum(len(part) if isinstance(part, str) else part[1] for part in content)


def slice_of(content: Content, start: int, stop: int) -> bytes:
    """Return the bytes `[start, stop)` of a content, fewer at its end."""
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
    """A content that a path may have."""

    content: Content | None
    whole: bool = True  # False: any part of it, too
    done: bool = True  # False: the change is under way


class Ledger:
    """The allowed states of each path, by the statements so far."""

    def __init__(self) -> None:
        self._states: dict[str, list[State]] = {}
        self._requested: dict[int, dict[str, State]] = {}
        self.promises = 0

    def add(self, line: bytes) -> None:
        """Add a statement."""
        kind, subject, *rest = json.loads(line)
        if kind == "ask":
            self._requested[subject] = {path: states[-1] for path, states in self._states.items()}
        elif kind == "done":
            for path, state in self._requested.pop(subject).items():
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
        if said:  # otherwise a newer content was promised meanwhile
            self._keep_from(path, said[-1])

    def _mark_durable(self, path: str, state: State) -> None:
        # The promise excludes writes, renames and removals that were under way at the request.
        if state.whole and state.done and any(state is other for other in self._states[path]):
            self.promises += 1
            self._keep_from(path, state)

    def _keep_from(self, path: str, state: State) -> None:
        states = self._states[path]
        self._states[path] = states[next(n for n, other in enumerate(states) if other is state) :]

    def problems(self, folder: Path) -> Iterator[str]:
        """Yield each path in `folder` with a content that is not allowed, and the reason."""
        for path, states in self._states.items():
            try:
                problem = _problem(folder / path, states)
            except OSError as exc:
                problem = f"cannot be read: {exc.strerror}"
            if problem:
                yield f"{path} {problem}"

    @property
    def pending_syncs(self) -> int:
        """The number of syncs that were requested and not acknowledged yet."""
        return len(self._requested)

    def restart_from(self, folder: Path) -> None:
        """Restart from the present content of a sound store; remove files written in place.

        No sync may be under way. Make the removals durable before clients go on.
        """
        self._requested.clear()
        for path, states in self._states.items():
            if not all(state.whole for state in states):
                (folder / path).unlink(missing_ok=True)
                self._states[path] = [State(None)]
            else:
                intact = [state for state in states if _is_whole(folder / path, state)]
                self._states[path] = intact[-1:] or [State(None)]


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
        allowed = ", ".join(str(state.content or "nothing") for state in states)
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
            return f"has {size} bytes, more than were written"
        for start in range(0, size, BLOCK):
            data = _read(file.fileno(), start, BLOCK)
            if data == slice_of(contents[-1], start, start + BLOCK):
                continue
            values = np.frombuffer(data, np.uint8)
            sound = values == 0  # a hole: bytes that were not written yet
            for content in contents:
                wanted = np.frombuffer(slice_of(content, start, start + len(values)), np.uint8)
                sound[: len(wanted)] |= values[: len(wanted)] == wanted
            if not sound.all():
                return f"has bytes at {start + int(np.argmin(sound))} that no client wrote there"
    return None
