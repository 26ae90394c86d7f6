"""Packs: append-only files of chunks, written a segment at a time."""
