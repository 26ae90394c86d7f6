"""Packs: append-only files of chunks."""
