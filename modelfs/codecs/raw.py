"""The codec that stores bytes as they are."""


class Raw:
    """Identity."""

    def encode(self, raw: bytes) -> bytes:
        return raw

    def decode(self, stored: bytes, size: int) -> bytes:
        if len(stored) != size:
            raise ValueError(f"{len(stored)} bytes stored for a chunk of {size}")
        return stored
