"""The parts of tools/run trust.exercise."""
