"""General-purpose compression (Zstandard, RFC 8878) for bytes that are no array of numbers.

Headers, protobuf framing, tokenizers and configurations are text or nearly so. Stored form: one
Zstandard frame with its content size and without a checksum, since the chunk record has one.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import zstandard

from modelfs.codecs.base import Bytes

# The level at which zstd is still faster than the disk it saves.
LEVEL: Final = 3

NewCompressor = Callable[[], zstandard.ZstdCompressor]
_AT_LEVEL: Final = partial(zstandard.ZstdCompressor, level=LEVEL)


class Zstd:
    """One Zstandard frame. Safe to use from many threads: contexts are per thread."""

    def __init__(self, new_compressor: NewCompressor = _AT_LEVEL) -> None:
        self._new_compressor = new_compressor
        self._local = threading.local()

    def encode(self, raw: Bytes) -> bytes:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = self._new_compressor()
        stored: bytes = self._local.compressor.compress(raw)
        return stored

    def decode(self, stored: Bytes, size: int) -> bytes:
        try:
            # The frame's own size is read first: a damaged one could need any amount of memory.
            claimed = zstandard.frame_content_size(stored)
            if claimed != size:
                raise ValueError(f"a frame of {claimed} bytes for a chunk of {size}")
            if not hasattr(self._local, "decompressor"):
                self._local.decompressor = zstandard.ZstdDecompressor()
            raw: bytes = self._local.decompressor.decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise ValueError(str(exc)) from exc
        if len(raw) != size:
            raise ValueError(f"{len(raw)} bytes decoded for a chunk of {size}")
        return raw
