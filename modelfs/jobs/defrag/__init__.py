"""Defragment: rewrite packs so that files are read in long stretches."""
