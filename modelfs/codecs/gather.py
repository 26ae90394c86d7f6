"""Gather: content put together from runs of other chunks, and nothing else.

Payload: none. Example. A fused tensor is cut at other places than its two parts were: a chunk of it
is the last 3000 bytes of one chunk and the first 1096 of another.
"""


class Gather:
    """Identity on the source."""

    def decode(self, payload: bytes, size: int, source: bytes) -> bytes:
        if payload or len(source) != size:
            raise ValueError(
                f"{len(source)} bytes gathered, and a payload of {len(payload)}, "
                f"for a chunk of {size}"
            )
        return source
