"""Loops that numpy cannot fuse, compiled where a compiler was, and their numpy twins."""
