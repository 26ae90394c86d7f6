"""Defragmentation: rewrite packs so that files are read in few long runs."""
