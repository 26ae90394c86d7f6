"""Gathering gives the source, and refuses everything else."""

import pytest

from modelfs.codecs import DERIVATIONS
from modelfs.codecs.base import CodecId

GATHER = DERIVATIONS[CodecId.GATHER]


def test_the_source_is_the_content() -> None:
    """The content is the joined source."""
    assert GATHER.decode(b"", 5, b"whole") == b"whole"


@pytest.mark.parametrize(("payload", "size"), [(b"", 4), (b"", 6), (b"x", 5)])
def test_anything_else_is_refused(payload: bytes, size: int) -> None:
    """A source of another size is refused, and so is any payload."""
    with pytest.raises(ValueError, match="5 bytes gathered"):
        GATHER.decode(payload, size, b"whole")
