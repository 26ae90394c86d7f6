"""Garbage collection: remove chunks without references, and rewrite packs with few live bytes."""
