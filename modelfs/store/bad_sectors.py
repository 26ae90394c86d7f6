"""Bad sectors: to who can do without it, what the disk cannot read is as good as damaged."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from modelfs.errors import CorruptPack


@contextmanager
def eio_as_corruption() -> Iterator[None]:
    """Let a read of packs that the disk refuses (EIO) raise `CorruptPack`. Not for writes."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        raise CorruptPack(str(exc)) from exc
