"""Loops that numpy cannot fuse, compiled where a compiler was, and the same in numpy."""
