"""The parts of tools/run trust.load."""
