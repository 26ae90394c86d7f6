"""Chunks: their records, their bytes, and the derivations between them."""
