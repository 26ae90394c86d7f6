"""What tools/run trust.exercise is made of."""
