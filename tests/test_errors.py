"""Exceptions: they pass from one process to another, as multiprocessing sends them."""

import copy
import pickle
from collections.abc import Iterator

import pytest

from modelfs.errors import CorruptChunk, ModelfsError


def subclasses(kind: type[ModelfsError]) -> Iterator[type[ModelfsError]]:
    """Yield a class and all that derive from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from subclasses(derived)


def example(kind: type[ModelfsError]) -> ModelfsError:
    """Return an exception of a class."""
    return kind(7, "damaged", 3) if issubclass(kind, CorruptChunk) else kind("a message")


@pytest.mark.parametrize("kind", list(subclasses(ModelfsError)))
def test_exceptions_are_copied_whole(kind: type[ModelfsError]) -> None:
    """A pickle and a copy have the class, the message and the attributes."""
    error = example(kind)
    error.add_note("a note")
    for copied in (
        pickle.loads(pickle.dumps(error)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(copied) is kind
        assert str(copied) == str(error)
        assert vars(copied) == vars(error)
