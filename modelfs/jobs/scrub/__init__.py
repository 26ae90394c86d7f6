"""Scrub: read every stored byte, and report the chunks that the disk has damaged."""
