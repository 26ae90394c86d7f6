"""Benchmarks. Each prints a ratio to a peer that ran in the same rounds."""
