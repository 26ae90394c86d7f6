"""Chunks that are put and read without a file."""

from typing import Final

from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.run_jobs import drain

TEXT: Final = b"text that zstd makes shorter, " * 50


def put(store: Store, *contents: bytes, compress: bool = False) -> list[ChunkId]:
    """Put contents with a writer of their own."""
    writer = store.writer()
    chunks = [writer.put(content, compress=compress) for content in contents]
    drain(store.publish(writer.finish()))
    return chunks


def load(store: Store, chunk: ChunkId) -> bytes:
    return store.chunk_reader.read(chunk, store.chunks.record(chunk))
