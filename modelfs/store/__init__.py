"""Durable state: index, packs, chunks and files. Synchronous; only this package uses LMDB."""
