"""Scrub: read every stored byte, and name what the disk has lost."""
