"""Durable state: packs, index, chunks, namespace. Synchronous; the only user of lmdb."""
