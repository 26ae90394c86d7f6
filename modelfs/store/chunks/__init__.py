"""Chunks: their records, their bytes, and what derives from what."""
