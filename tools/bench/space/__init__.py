"""The parts of tools/run bench.space."""
