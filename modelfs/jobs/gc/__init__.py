"""Collect garbage: chunks without references, and packs with little in them."""
